"""Tries one reader on many inputs, each watched: ``python -m tests.hostile.fuzz READER SEED N``.

An input that ends in anything but success or ``InputError``, takes longer than ten seconds or more
than a gigabyte, starts a program, asks a host or writes outside its folder is a fault. It is
written into ``found``, made as small as it could be made, or as it was where it ended its process,
for the suite to try from then on.
"""

import faulthandler
import hashlib
import os
import shutil
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.hostile.readers import Reader, readers
from tests.hostile.watch import Watch, little_memory

from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError, StorageGoneError

FOUND = Path(__file__).parent / "found"
SECONDS = 10
LONGEST_MESSAGE = 5000
FAULT = 3  # exit code of a process that has found and kept an input


def try_one(reader: Reader, content: bytes, watch: Watch) -> None:
    """Raises what a user would see as a traceback, or ``AssertionError`` for a bad message."""
    folder = Path(tempfile.mkdtemp(dir=watch.folder))
    try:
        with little_memory(), watch:
            reader.read(folder, content)
    except (InputError, StorageGoneError) as error:
        if not str(error).strip() or len(str(error)) > LONGEST_MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(name: str, number: int, examples: int) -> int:
    """Exit code 1 where an input was found that is handled wrongly."""
    reader = next(reader for reader in readers() if reader.name == name)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="semigrid-hostile-") as place:
        last = Path(place) / "last"
        if (child := os.fork()) == 0:  # which an input may end, or make hang
            os._exit(_try_all(reader, number, examples, Path(place), last))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, FAULT):
            print(f"exit code {code} of the process, or no end within {SECONDS} s")
            print(f"kept: {keep(name, last.read_bytes())}")
    return int(code != 0)


def _try_all(reader: Reader, number: int, examples: int, place: Path, last: Path) -> int:
    """Tries the inputs, each written to ``last`` before; returns the exit code of its process."""
    watch = Watch(place)
    tried = 0
    wrong: dict[str, bytes] = {}

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(reader.contents)
    def every_input_is_read_or_refused(content: bytes) -> None:
        nonlocal tried
        tried += 1
        last.write_bytes(content)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            try_one(reader, content, watch)
        except BaseException as error:
            wrong["smallest"] = content
            wrong["why"] = traceback.format_exc().encode()
            raise error
        finally:
            faulthandler.cancel_dump_traceback_later()

    open_dataset("builtin://digits")  # made before anything outside may not be written
    import_module("timm")  # PyTorch starts ldconfig and makes a folder, whatever is read
    try:
        every_input_is_read_or_refused()
    except BaseException:
        print(wrong.get("why", traceback.format_exc().encode()).decode()[-3000:])
        if content := wrong.get("smallest"):
            print(f"kept: {keep(reader.name, content)}")
        code = FAULT
    else:
        print(f"{reader.name}: {tried:,} inputs")
        code = 0
    sys.stdout.flush()
    return code


def keep(name: str, content: bytes) -> Path:
    """Writes an input to where the suite finds it."""
    file = FOUND / name / hashlib.sha256(content).hexdigest()[:12]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
