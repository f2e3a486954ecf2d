"""A driver that dies is started again, one that ends is not, and none outlives its supervisor."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from semigrid.grid.run.supervise import RESTARTS, Supervisor

START = """
import os, signal, sys, time
from pathlib import Path
from semigrid.grid.run.supervise import follow_supervisor, say_ended
follow_supervisor()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
lives = Path(sys.argv[1])
lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
"""
DIES_TWICE = "if lives.read_text() != 'xxx': os.kill(os.getpid(), signal.SIGKILL)\nsay_ended(1)"
ALWAYS_DIES = "sys.exit(1)"
WAITS = """
try:
    time.sleep(60)
    say_ended(1)
except KeyboardInterrupt:
    say_ended(130)
"""


@pytest.fixture(autouse=True)
def restarted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semigrid.grid.run.supervise.FIRST_WAIT", 0.01)


def supervisor(tmp_path: Path, body: str) -> tuple[Supervisor, Path, list[str]]:
    lives, said = tmp_path / "lives", []
    command = [sys.executable, "-c", START + body, str(lives)]
    return Supervisor(command, said.append), lives, said


def test_a_command_that_dies_runs_again_until_it_says_that_it_ended(tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, DIES_TWICE)
    assert found.run() == 1
    assert lives.read_text() == "xxx"
    assert len(said) == 2 and "signal 9" in said[0]


def test_a_command_knows_that_it_runs_again(tmp_path: Path) -> None:
    imports = "from semigrid.grid.run.supervise import RESTARTED"
    body = f"{imports}\nif RESTARTED in os.environ: say_ended(0)"
    found, lives, _ = supervisor(tmp_path, body)
    assert found.run() == 0
    assert lives.read_text() == "xx"


def test_one_that_always_dies_is_given_up(tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, ALWAYS_DIES)
    assert found.run() == 1
    assert lives.read_text() == "x" * (RESTARTS + 1) and len(said) == RESTARTS + 1
    assert "died 6 times in a row, the last time by exit code 1" in said[-1]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupt_reaches_the_command_and_is_no_death(tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, WAITS)

    def interrupt() -> None:
        wait_for(lives)
        time.sleep(0.2)
        found.interrupt()

    threading.Thread(target=interrupt).start()
    assert found.run() == 130
    assert lives.read_text() == "x" and said == []


def test_nobody_drives_on_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    lives, pid = tmp_path / "lives", tmp_path / "pid"
    body = START + f"Path({str(pid)!r}).write_text(str(os.getpid()))" + WAITS
    command = [sys.executable, "-c", body, str(lives)]
    code = (
        f"from semigrid.grid.run.supervise import Supervisor\nSupervisor({command!r}, print).run()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(pid)
    time.sleep(0.1)
    child = int(pid.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists():
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break  # dead, and not yet buried by init
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert os.getpid() != child
