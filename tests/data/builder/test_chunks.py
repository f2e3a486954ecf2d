"""Processes that clean images: what they run, and how a build goes on or ends when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.helpers.shop import SETTINGS, shop, tile

from semigrid.data.builder.chunks import chunks_of
from semigrid.data.builder.ingest import BUILDING, build_dataset
from semigrid.data.errors import InputError
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import Inside, Item
from semigrid.data.sources.patterns import drawing
from semigrid.data.storage import open_storage


@dataclass(frozen=True)
class Deadly(Inside):
    """An image that kills the first process that reads it, or each."""

    trace: str
    always: bool = False

    def read(self, uri: str) -> bytes:
        if self.always or not Path(self.trace).exists():
            Path(self.trace).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return tile(1)


def test_a_build_outlives_any_number_of_deaths_that_do_not_stop_it(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    for number in range(10, 50, 10):  # in a chunk each
        items[number] = replace(items[number], inside=Deadly(str(tmp_path / f"trace{number}")))
    build_dataset(str(tmp_path / "set"), items, SETTINGS, processes=2)
    assert len(list(tmp_path.glob("trace*"))) == 4


def test_deaths_that_stop_a_build_are_said(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    items[50] = replace(items[50], inside=Deadly(str(tmp_path / "trace"), always=True))
    with pytest.raises(InputError, match="lack of memory.*give fewer --processes"):
        build_dataset(str(tmp_path / "set"), items, SETTINGS, processes=2)
    kept = list((tmp_path / "set" / BUILDING).glob("*/chunk-*.parquet"))
    assert len(kept) >= 50 // SETTINGS.chunk_images


def test_chunks_of_another_version_of_made_images_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item("0", "builtin://patterns", inside=drawing.GeneratedImage(0, 0, 16))]
    first = chunks_of(open_storage(tmp_path), items, SETTINGS)[0].folder
    monkeypatch.setattr(drawing, "VERSION", drawing.VERSION + 1)
    assert chunks_of(open_storage(tmp_path), items, SETTINGS)[0].folder != first


# builds with two processes, which say their ids: before they begin, or while they clean
BUILD = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from dataclasses import dataclass

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest
from semigrid.data.sources.items import Inside, Item

folder, where = pathlib.Path(sys.argv[1]), sys.argv[2]

def wait(place):
    (folder / f"{os.getpid()}.tmp").touch()
    os.rename(folder / f"{os.getpid()}.tmp", folder / f"{os.getpid()}.pid")
    time.sleep(600 if place == "reading" else 1)

@dataclass(frozen=True)
class Slow(Inside):
    number: int

    def read(self, uri):
        wait("reading")

if __name__ == "__main__":
    items = [Item(str(number), "", "a", inside=Slow(number)) for number in range(4)]
    try:
        build_dataset(str(folder / "set"), items, BuildRequest(source="s", chunk_images=1),
                      processes=2)
    except KeyboardInterrupt:
        sys.exit(130)
elif where == "beginning":
    wait(where)
"""


@contextmanager
def building(folder: Path, where: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A build and the ids of its two processes; it runs in a folder with names of Python's."""
    (folder / "here").mkdir()
    for name in ("pickle", "socket", "types"):
        text = f"import os\nos.write(2, b'{name}.py was run')\nos._exit(7)\n"
        (folder / "here" / f"{name}.py").write_text(text)
    (folder / "program").mkdir()
    (folder / "program" / "build.py").write_text(BUILD)
    command = [sys.executable, str(folder / "program" / "build.py"), str(folder), where]
    build = subprocess.Popen(
        command, cwd=folder / "here", stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while len(found := list(folder.glob("*.pid"))) < 2:
            if build.poll() is not None or time.monotonic() > deadline:
                build.kill()
                pytest.fail(build.communicate()[1])
            time.sleep(0.05)
        yield build, [int(path.stem) for path in found]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(build.pid, signal.SIGKILL)
        build.communicate()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_cleaning_ends_with_its_build_and_runs_nothing_of_the_folder(
    tmp_path: Path, sent: signal.Signals
) -> None:
    with building(tmp_path, "reading") as (build, processes):
        build.send_signal(sent)
        build.wait()
        deadline = time.monotonic() + 20
        while any(map(alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, processes))


@pytest.mark.parametrize("where", ["beginning", "reading"])
def test_ctrl_c_prints_no_traceback_of_a_process(tmp_path: Path, where: str) -> None:
    with building(tmp_path, where) as (build, _):
        os.killpg(build.pid, signal.SIGINT)
        assert build.communicate(timeout=60)[1] == ""
        assert build.returncode == 130
