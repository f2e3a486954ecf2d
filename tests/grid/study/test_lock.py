"""The lock of a run's folder, between real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from semigrid.data.errors import InputError
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.study.layout import LOCK
from semigrid.grid.study.lock import Lease, LostLockError, RunLock, holder_of

# Takes the lock, prints "held", and holds it until its standard input ends.
HOLD = """
import sys, threading
from semigrid.data.errors import InputError
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.study.lock import RunLock
try:
    with RunLock(open_storage(sys.argv[1]), print, lambda: print("lost", flush=True), 0.2):
        print("held", flush=True)
        sys.stdin.read()
        print("released", flush=True)
except InputError as error:
    print("refused:", error)
"""

# Joins a run that holds the lock, and writes into its folder as long as it may.
WORK = """
import sys, time
from dataclasses import replace
from semigrid.data.storage import open_storage
from semigrid.grid.study.lock import Lease, LostLockError
storage = open_storage(sys.argv[1])
with Lease.join(storage, sys.argv[2], lambda: None) as lease:
    held = replace(storage, confirm=lease.check)
    print("held", flush=True)
    try:
        while True:
            held.write("work", b"of the first run")
            time.sleep(0.02)
    except LostLockError as error:
        print("lost:", error)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def hold(
    folder: Path, started: list[subprocess.Popen[str]], program: str = HOLD, *args: str
) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program, str(folder), *args]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    started.append(process)
    return process


def wait_for(process: subprocess.Popen[str], *words: str) -> list[str]:
    """Lines of a process until one that starts with a word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(words):
            return lines
    raise AssertionError(f"{lines} without {words}; {process.stderr and process.stderr.read()}")


def quick_lock(storage: Storage | Path, said: list[str] | None = None) -> RunLock:
    where = storage if isinstance(storage, Storage) else open_storage(storage)
    said = [] if said is None else said
    return RunLock(where, said.append, lambda: None, interval=0.2)


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / LOCK).read_text())
    return found


def foreign(folder: Path, **changes: Any) -> bytes:
    """The lock of a run on another machine, whose clock is an hour ahead."""
    folder.mkdir(exist_ok=True)
    with quick_lock(folder):
        lock = content(folder)
    lock |= {"host": "elsewhere", "machine": "another boot", "token": uuid.uuid4().hex}
    lock |= {"heartbeat": time.time() + 3600, **changes}
    return json.dumps(lock).encode()


def test_a_second_run_is_refused_with_who_holds_the_lock_and_since_when(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path, started)
    wait_for(process, "held")
    with pytest.raises(InputError) as error, quick_lock(tmp_path):
        pass
    message, lock = str(error.value), content(tmp_path)
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(lock["started_at"]))
    for part in (str(tmp_path), lock["user"], lock["host"], str(process.pid), since, "heartbeat"):
        assert part in message
    assert f"kill {process.pid}" in message and "--storage" in message
    first = lock["heartbeat"]
    time.sleep(0.5)
    assert content(tmp_path)["heartbeat"] > first
    out, _ = process.communicate("")
    assert "released" in out and not (tmp_path / LOCK).exists()
    with quick_lock(tmp_path):
        assert content(tmp_path)["pid"] == os.getpid()


def test_an_interrupt_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), quick_lock(tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / LOCK).exists()


def test_the_lock_of_a_killed_run_is_taken_over_at_once(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path, started)
    wait_for(process, "held")
    process.kill()
    time.sleep(0.1)  # not waited for: a zombie has a number still
    said: list[str] = []
    before = time.monotonic()
    with quick_lock(tmp_path, said):
        assert time.monotonic() - before < 0.3
        assert content(tmp_path)["pid"] == os.getpid()
    assert len(said) == 1 and "dead" in said[0] and str(process.pid) in said[0]


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    with quick_lock(tmp_path):
        lock = content(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(lock | {"born": "1", "token": "another"}))
    with quick_lock(tmp_path):
        pass


def test_another_users_process_that_cannot_be_seen_is_not_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as where /proc is mounted with hidepid: files of other users' processes are not there
    with RunLock(open_storage(tmp_path), print, lambda: None):
        holder = holder_of(open_storage(tmp_path))
    assert holder is not None and not holder.is_gone
    monkeypatch.setattr("semigrid.grid.study.lock.PROCESSES", tmp_path)
    assert not holder.is_gone
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert holder.model_copy(update={"pid": gone.pid}).is_gone


def test_a_lock_of_another_machine_is_watched_and_taken_over_if_it_is_still(
    tmp_path: Path,
) -> None:
    (tmp_path / LOCK).write_bytes(foreign(tmp_path))
    said: list[str] = []
    before = time.monotonic()
    with quick_lock(tmp_path, said):
        assert time.monotonic() - before > 0.2
    assert "watching" in said[0] and "elsewhere" in said[0] and "taking its lock over" in said[1]


def test_a_lock_of_another_machine_that_beats_is_respected(tmp_path: Path) -> None:
    lock = foreign(tmp_path, heartbeat=1.0)  # by its clock in 1970
    open_storage(tmp_path).write(LOCK, lock)
    again = json.dumps(json.loads(lock) | {"heartbeat": 1.2}).encode()
    timer = threading.Timer(0.3, lambda: open_storage(tmp_path).write(LOCK, again))
    timer.start()
    with pytest.raises(InputError, match="elsewhere"), quick_lock(tmp_path):
        pass
    timer.join()
    assert (tmp_path / LOCK).read_bytes() == again


@pytest.mark.parametrize("length", [0, 40])
def test_a_lock_cut_anywhere_hinders_nobody_and_is_mended_by_its_holder(
    length: int, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    (tmp_path / LOCK).write_bytes(foreign(tmp_path)[:length])
    with quick_lock(tmp_path):
        pass
    process = hold(tmp_path, started)
    wait_for(process, "held")
    (tmp_path / LOCK).write_bytes((tmp_path / LOCK).read_bytes()[:length])
    with pytest.raises(InputError, match=f"process {process.pid}"), quick_lock(tmp_path):
        pass


def test_a_holder_that_slept_while_another_took_over_learns_of_it(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    process = hold(tmp_path, started)
    wait_for(process, "held")
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    taken = foreign(tmp_path / "other")
    (tmp_path / LOCK).write_bytes(taken)
    process.send_signal(signal.SIGCONT)
    wait_for(process, "lost")
    process.communicate("")
    assert (tmp_path / LOCK).read_bytes() == taken  # it removes no other run's lock


@pytest.mark.parametrize("before", ["nothing", "a dead run", "a run elsewhere", "a cut lock"])
def test_of_several_that_start_at_once_exactly_one_wins(
    before: str, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    if before == "a dead run":
        dead = hold(tmp_path, started)
        wait_for(dead, "held")
        dead.kill()
        dead.communicate()
    elif before == "a run elsewhere":
        (tmp_path / LOCK).write_bytes(foreign(tmp_path))
    elif before == "a cut lock":
        (tmp_path / LOCK).write_bytes(foreign(tmp_path)[:30])
    threads: list[threading.Thread] = []
    results: list[str] = []
    won = threading.Event()

    def attempt(number: int) -> None:
        lock = RunLock(open_storage(tmp_path), lambda _: None, lambda: results.append("lost"), 0.2)
        try:
            with lock:
                results.append("held")
                won.wait(10)
        except InputError:
            results.append("refused")

    # processes race too; threads of one process race harder, and flock treats them alike
    processes = [hold(tmp_path, started) for _ in range(3)]
    for number in range(5):
        threads.append(threading.Thread(target=attempt, args=(number,)))
        threads[-1].start()
    for process in processes:
        line = wait_for(process, "held", "refused")[-1]
        results.append(line.split(":")[0])
    deadline = time.monotonic() + 10
    while len(results) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # two heartbeats: whoever lost the lock would say so
    assert sorted(results) == ["held"] + ["refused"] * 7
    won.set()
    for thread in threads:
        thread.join()


def test_a_heartbeat_makes_no_folder_that_vanished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with quick_lock(folder):
        os.rename(folder, tmp_path / "away")
        time.sleep(0.6)
        assert not folder.exists()
        folder.mkdir()  # the empty place where something is mounted
        time.sleep(0.6)
        assert list(folder.iterdir()) == []
        folder.rmdir()
        os.rename(tmp_path / "away", folder)
        before = content(folder)["heartbeat"]
        time.sleep(0.8)
        assert content(folder)["heartbeat"] > before
    assert not (folder / LOCK).exists()
    shutil.rmtree(folder)


def test_a_lock_in_a_bucket() -> None:
    storage = open_storage(f"memory://{uuid.uuid4().hex}/run")
    with quick_lock(storage):
        assert storage.exists(LOCK)
        time.sleep(0.5)
        with pytest.raises(InputError, match="another run is at work"), quick_lock(storage):
            pass
    assert not storage.exists(LOCK)
    other = storage.folder("other")
    other.write(LOCK, b"cut")
    with quick_lock(other):
        assert json.loads(other.read(LOCK))["pid"] == os.getpid()


def test_the_heart_beats_on_when_somebody_tidied_the_guard_away(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with RunLock(storage, print, lambda: None, interval=0.1):
        (tmp_path / ".lock.guard").unlink()
        before = (tmp_path / LOCK).read_bytes()
        deadline = time.monotonic() + 20
        while (tmp_path / LOCK).read_bytes() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not (tmp_path / LOCK).exists()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is on another machine than those it starts."""
    monkeypatch.setattr("semigrid.grid.study.lock._machine", lambda: "another machine")


def at_work(
    folder: Path, started: list[subprocess.Popen[str]]
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """The supervisor of a run, and a driver that writes."""
    supervisor = hold(folder, started)
    wait_for(supervisor, "held")
    driver = hold(folder, started, WORK, content(folder)["token"])
    wait_for(driver, "held")
    return supervisor, driver


def test_a_driver_holds_the_folder_while_its_supervisor_stands_still(
    tmp_path: Path, started: list[subprocess.Popen[str]], elsewhere: None
) -> None:
    supervisor, driver = at_work(tmp_path, started)
    supervisor.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match=f"process {supervisor.pid}"), quick_lock(tmp_path):
        pass
    assert driver.poll() is None


@pytest.mark.parametrize("then", ["works", "has ended"])
def test_a_run_that_slept_while_another_took_over_writes_nothing(
    then: str, tmp_path: Path, started: list[subprocess.Popen[str]], elsewhere: None
) -> None:
    both = at_work(tmp_path, started)
    for process in both:
        process.send_signal(signal.SIGSTOP)
    lock = quick_lock(tmp_path)
    with lock:
        open_storage(tmp_path).write("work", b"of the second run")
        if then == "works":
            taken = content(tmp_path)
            for process in both:
                process.send_signal(signal.SIGCONT)
            said = wait_for(both[1], "lost")[-1]
            assert "another run took over" in said and f"process {taken['pid']}" in said
            wait_for(both[0], "lost")
    if then == "has ended":
        for process in both:
            process.send_signal(signal.SIGCONT)
        assert "another run may have taken over" in wait_for(both[1], "lost")[-1]
        wait_for(both[0], "lost")
    for process in both:
        process.communicate("")
    assert (tmp_path / "work").read_bytes() == b"of the second run"
    assert not (tmp_path / LOCK).exists()


def test_a_driver_without_the_runs_token_does_not_join(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    with pytest.raises(LostLockError):
        Lease.join(storage, "", lambda: None)
    with quick_lock(tmp_path) as lock, pytest.raises(LostLockError):
        Lease.join(storage, f"not {lock.token}", lambda: None)


def test_a_process_looks_for_its_lock_when_it_may_have_slept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []
    lock = RunLock(open_storage(tmp_path), print, lambda: lost.append("lost"), interval=50)
    slept = 0.0
    monkeypatch.setattr("semigrid.grid.study.lock._now", lambda: 1000 + slept)
    with lock:
        (tmp_path / LOCK).unlink()
        lock.check()  # nobody can have taken it
        slept = 150.0
        with pytest.raises(LostLockError, match="may have taken over"):
            lock.check()
        with pytest.raises(LostLockError):
            lock.check()
        assert lost == ["lost"] and not (tmp_path / LOCK).exists()
