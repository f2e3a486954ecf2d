import subprocess
import sys
from pathlib import Path

import pytest

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.in_use import LOCK, in_use, remove_unfinished

HOLD = """
import sys, time
from semigrid.data.storage import open_storage
from semigrid.data.storage.in_use import in_use
with in_use(open_storage(sys.argv[1]), "DEST"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_one_is_refused_at_once_and_the_next_one_finds_nothing(tmp_path: Path) -> None:
    folder = open_storage(tmp_path / "new" / "folder")
    with in_use(folder, "--output"):
        with (
            pytest.raises(InputError, match=f"--output {folder.uri}: another process is writing"),
            in_use(folder, "--output"),
        ):
            raise AssertionError("two at once")
        assert folder.exists(LOCK)  # the one that was refused did not take it away
    assert folder.entries() == {}
    with in_use(folder, "--output"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = open_storage(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(InputError), in_use(folder, "DEST"):
            pass
        other.kill()
    with in_use(folder, "DEST"):
        pass
    assert folder.entries() == {}


def test_what_a_killed_write_left_is_removed_where_it_is_asked_for(tmp_path: Path) -> None:
    left = [f".a.json.{'0' * 32}-12-34.tmp", f"parts/.b.parquet.{'f' * 32}-5-6.tmp"]
    others = [".a.tmp", "a.tmp", "parts/.b.parquet.0-5-6.tmp"]
    # what another process is writing in a folder of its own, further down
    others += [f"run/.c.json.{'0' * 32}-12-34.tmp", f"parts/run/.c.json.{'0' * 32}-12-34.tmp"]
    for name in (*left, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")

    def found() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tmp")}

    with in_use(open_storage(tmp_path), "--output") as alone:
        assert alone
        assert found() == {*left, *others}  # the folder may be another's
        remove_unfinished(open_storage(tmp_path), "", "parts", "missing")
        assert found() == set(others)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        refused = pytest.raises(InputError, match=f"DEST {path}: this is a file")
        with refused, in_use(open_storage(path), "DEST"):
            pass


def test_a_bucket_has_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    with in_use(open_storage("memory://bucket/predictions"), "--output"):
        pass
    assert not open_storage("memory://bucket/predictions").exists()
