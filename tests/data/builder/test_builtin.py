"""The cache of the built-in datasets, which many processes may open at once."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from semigrid.data.builder import builtin
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError

CACHED = ["digits-v1"]
# opens the digits in a new cache each round, all processes at the same moment
OPEN = """
import os, sys, time
from semigrid.data.builder import builtin
from semigrid.data.builder.write import StoredImage
cache, rounds = sys.argv[1], int(sys.argv[2])
def digits():  # a few only, so that importing scikit-learn takes no time
    open(os.path.join(os.environ["SEMIGRID_CACHE"], "drawn"), "a").write("x")
    return [
        StoredImage(f"{split}-{n}", b"image", None if split == "pool" else n, split, f"{split}-{n}")
        for split in ("train", "val", "test", "pool")
        for n in range(10)
    ]
builtin.digits = digits
print("ready", flush=True)
sys.stdin.readline()
begin = float(sys.stdin.readline())
for number in range(rounds):
    os.environ["SEMIGRID_CACHE"] = f"{cache}/{number}"
    time.sleep(max(0, begin + 0.2 * number - time.time()))
    builtin.builtin_folder("builtin://digits")
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path))
    return tmp_path


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".digits-v1.lock")


def test_processes_that_open_it_at_once_write_it_once(tmp_path: Path) -> None:
    rounds = 6
    for number in range(rounds):
        left = tmp_path / str(number) / ".digits-v1"  # of a process that was killed
        left.mkdir(parents=True)
        (left / "train-00000.parquet").write_text("half")
    command = [sys.executable, "-c", OPEN, str(tmp_path), str(rounds)]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **piped) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    begin = f"\n{time.time() + 0.3}\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(begin)
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 3
    for number in range(rounds):
        assert visible(tmp_path / str(number)) == ["digits-v1", "drawn"]
        assert (tmp_path / str(number) / "drawn").read_text() == "x"


def test_a_full_disk_is_said_and_nothing_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        expected = f"its cache {cache}/digits-v1 cannot be written: .*No space left.*/train-0000"
        with pytest.raises(InputError, match=expected):
            open_dataset("builtin://digits")
    assert visible(cache) == []
    open_dataset("builtin://digits")
    (cache / "digits-v1" / "dataset.json").unlink()
    open_dataset("builtin://digits")


def test_a_cache_that_cannot_be_written_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("SEMIGRID_CACHE", str(cache / "file"))
    with pytest.raises(InputError, match="file/digits-v1 cannot be written.*set SEMIGRID_CACHE to"):
        open_dataset("builtin://digits")


def test_what_cannot_be_removed_is_not_in_the_way(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / ".digits-v1").mkdir()  # another user's, left by a process that was killed
    remove = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if path != cache / ".digits-v1":
            remove(path, ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    open_dataset("builtin://digits")
    assert visible(cache) == [".digits-v1", *CACHED]


def test_without_locks_each_process_writes_a_folder_of_its_own(cache: Path) -> None:
    (cache / ".digits-v1").mkdir()  # of a process at work
    builtin._write("builtin://digits", cache / "digits-v1", alone=False)
    builtin._write("builtin://digits", cache / "digits-v1", alone=False)
    assert visible(cache) == [".digits-v1", *CACHED]
    open_dataset("builtin://digits")
