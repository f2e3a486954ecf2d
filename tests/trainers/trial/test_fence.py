"""An attempt that was given up writes nothing more."""

import os
import pickle
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import Meter, read_progress
from semigrid.trainers.layout import attempt_file
from semigrid.trainers.trial.fence import FencedError, begin_attempt, end_attempts
from semigrid.trainers.trial.job import Place


def place_of(folder: Path, token: str, patience: float = 0) -> Place:
    return Place("builtin://digits", str(folder), attempt=("t", token), patience=patience)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_only_the_last_attempt_writes_keeps_and_deletes(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    first = place_of(tmp_path, begin_attempt(storage, "t")).storage
    first.write("ledger/t.json", b"first")
    second = place_of(tmp_path, begin_attempt(storage, "t")).storage
    before = files_of(tmp_path)
    changes: list[Any] = [
        lambda: first.write("ledger/t.json", b"late"),
        lambda: first.keep("ledger/t.json", "ledger/kept.json"),
        lambda: first.delete("ledger/t.json"),
        lambda: pickle.loads(pickle.dumps(first)).folder("logs").write("t.log", b"late"),
    ]
    for change in changes:
        with pytest.raises(FencedError, match="trial t"):
            change()
    assert {k: v for k, v in files_of(tmp_path).items() if ".tmp" not in k} == before
    second.write("ledger/t.json", b"second")
    assert first.read("ledger/t.json") == b"second"  # it may still look


def test_an_ended_trials_attempts_are_all_given_up(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    mine = place_of(tmp_path, begin_attempt(storage, "t")).storage
    end_attempts(storage, "t")
    with pytest.raises(FencedError):
        mine.write("weights/t", b"late")


def test_of_the_parts_of_an_attempt_the_last_may_write_and_so_may_the_attempt(
    tmp_path: Path,
) -> None:
    storage = open_storage(tmp_path)
    whole = place_of(tmp_path, begin_attempt(storage, "t"))
    assert whole.fence is not None
    parts = [replace(whole, attempt=("t", whole.fence.next_part())) for _ in range(2)]
    parts[1].storage.write("a", b"")
    whole.storage.write("a", b"")
    with pytest.raises(FencedError):
        parts[0].storage.write("a", b"")
    begin_attempt(storage, "t")
    for place in (whole, parts[1]):
        with pytest.raises(FencedError):
            place.storage.write("a", b"")
    with pytest.raises(FencedError):
        whole.fence.next_part()  # a new part would give up the attempt that is at work
    with pytest.raises(FencedError):
        whole.storage.write("a", b"")


def test_checkpoints_and_progress_of_a_given_up_attempt_do_not_arrive(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    kept = place_of(tmp_path, begin_attempt(storage, "t")).storage.folder("checkpoints", "t")
    checkpoints, meter = Checkpoints(kept), Meter(kept, {})
    checkpoints.save({"step": 1})
    checkpoints.background.wait()
    meter.begin(1)
    begin_attempt(storage, "t")
    checkpoints.save({"step": 2})
    with pytest.raises(FencedError):
        checkpoints.background.wait()
    with pytest.raises(FencedError):
        meter.write()
    found = Checkpoints(storage.folder("checkpoints", "t")).load()
    assert found is not None and found["step"] == 1
    assert read_progress(storage.folder("checkpoints", "t"))["starts"] == [1]


def test_a_write_that_waited_for_its_storage_is_asked_again(tmp_path: Path) -> None:
    """Given up while the storage was away: it must not write when that comes back."""
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()
    place = place_of(folder, begin_attempt(open_storage(folder), "t"), patience=20)
    place.storage.write("a", b"before")
    os.rename(folder, away)
    raised: list[BaseException] = []

    def write() -> None:
        try:
            place.storage.write("a", b"late")
        except FencedError as error:
            raised.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)
    assert writer.is_alive()  # it waits: a fence that is away with all else says nothing
    (away / attempt_file("t")).write_text("another")
    os.rename(away, folder)
    writer.join(30)
    assert raised and (folder / "a").read_bytes() == b"before"


def test_alone_on_a_machine_there_is_no_fence(tmp_path: Path) -> None:
    place = Place("builtin://digits", str(tmp_path))
    assert place.fence is None
    place.storage.write("a", b"1")
    assert Place(**asdict(place)).storage.read("a") == b"1"
    assert not (tmp_path / "attempts").exists()
