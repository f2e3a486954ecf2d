"""A driver is started again if that can help, and nothing of it outlives its supervisor."""

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
from semigrid.grid.run.supervise import follow_supervisor, say_began, say_ended, say_lost
follow_supervisor()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
lives = Path(sys.argv[1])
lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
"""
DIES_TWICE = (
    "say_began()\nif lives.read_text() != 'xxx': os.kill(os.getpid(), signal.SIGKILL)\nsay_ended(1)"
)
ALWAYS_DIES = "say_began(); sys.exit(1)"
WAITS = """
try:
    time.sleep(60)
    say_ended(1)
except KeyboardInterrupt:
    say_ended(130)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semigrid.grid.run.supervise.FIRST_WAIT", 0.01)
    monkeypatch.setattr("semigrid.grid.run.supervise.END_SECONDS", 0.3)


def supervisor(tmp_path: Path, body: str) -> tuple[Supervisor, Path, list[str]]:
    lives, said = tmp_path / "lives", []
    command = [sys.executable, "-c", START + body, str(lives)]
    return Supervisor(command, said.append, "again"), lives, said


def test_a_command_that_dies_runs_again_until_it_says_that_it_ended(tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, DIES_TWICE)
    assert found.run() == 1
    assert lives.read_text() == "xxx"
    assert len(said) == 2 and "signal 9" in said[0]


def test_a_command_knows_that_it_runs_again(tmp_path: Path) -> None:
    imports = "from semigrid.grid.run.supervise import RESTARTED"
    body = f"{imports}\nsay_began()\nif RESTARTED in os.environ: say_ended(0)"
    found, lives, _ = supervisor(tmp_path, body)
    assert found.run() == 0
    assert lives.read_text() == "xx"


def test_one_that_always_dies_is_given_up(tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, ALWAYS_DIES)
    assert found.run() == 1
    assert lives.read_text() == "x" * (RESTARTS + 1) and len(said) == RESTARTS + 1
    assert "died 6 times in a row, the last time by exit code 1" in said[-1]


@pytest.mark.parametrize("end", ["sys.exit(2)", "raise ImportError", "os.abort()"])
def test_one_that_ends_before_it_drives_ray_would_do_so_again(end: str, tmp_path: Path) -> None:
    found, lives, said = supervisor(tmp_path, end)
    assert found.run() == 1
    assert lives.read_text() == "x"
    assert len(said) == 1 and "died at its start" in said[0]


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("say_lost('RpcError: no head'); sys.exit(1)", "RpcError: no head"),
    ],
)
def test_one_that_is_killed_or_finds_no_head_at_its_start_gets_one_more_try(
    end: str, how: str, tmp_path: Path
) -> None:
    imports = "from semigrid.grid.run.supervise import RESTARTED\n"
    found, lives, said = supervisor(tmp_path, f"{imports}assert RESTARTED not in os.environ\n{end}")
    assert found.run() == 1
    assert lives.read_text() == "xx"
    assert len(said) == 2 and f"died at its start ({how}" in said[1]


def test_deaths_at_the_start_are_counted_in_a_row(tmp_path: Path) -> None:
    body = """
if len(lives.read_text()) % 2:
    os.kill(os.getpid(), signal.SIGKILL)
say_began()
say_ended(0) if len(lives.read_text()) == 4 else os.abort()
"""
    found, lives, _ = supervisor(tmp_path, body)
    assert found.run() == 0
    assert lives.read_text() == "xxxx"


def test_one_that_lost_ray_runs_again_with_the_reason(tmp_path: Path) -> None:
    body = """
say_began()
if lives.read_text() == "x":
    say_lost("NodeDiedError: the\\nhead is gone")
    sys.exit(1)
say_ended(0)
"""
    found, lives, said = supervisor(tmp_path, body)
    assert found.run() == 0
    assert lives.read_text() == "xx"
    assert len(said) == 1 and "NodeDiedError: the head is gone" in said[0]


def test_what_explains_a_death_is_kept_before_its_folder_goes(tmp_path: Path) -> None:
    found, _, said = supervisor(tmp_path, "say_began(); sys.exit(1)")
    folders = []

    def keep(folder: str) -> str:
        folders.append(Path(folder).is_dir())
        found.stop()
        return "; Ray's logs: there"

    found.keep_logs = keep
    found.run()
    assert folders == [True]
    assert "died (exit code 1; Ray's logs: there: see above" in said[0]


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
    assert lives.read_text() == "x"
    assert len(said) == 1 and said[0].startswith("interrupted") and "To resume: again" in said[0]


# Ignores interrupts, and starts what stands still, and a process that loses its parent.
STUCK = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.{on_terminate})
import subprocess
program = (
    "import os, signal, sys, time; print(os.getpid(), file=open(sys.argv[1], 'a'));"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); {{}}"
)
still = program.format("os.kill(os.getpid(), signal.SIGSTOP)")
sleeps = program.format("time.sleep(60)")
subprocess.Popen([sys.executable, "-c", still, {pids!r}], start_new_session=True)
subprocess.run(["sh", "-c", '"$0" "$@" &', sys.executable, "-c", sleeps, {pids!r}])
time.sleep(60)
"""


@pytest.mark.parametrize(("on_terminate", "interrupts"), [("SIG_DFL", 2), ("SIG_IGN", 3)])
def test_more_interrupts_end_what_ignores_them_and_everything_it_started(
    on_terminate: str, interrupts: int, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    body = STUCK.format(pids=str(pids), on_terminate=on_terminate)
    found, _, said = supervisor(tmp_path, body)

    def interrupt() -> None:
        wait_for(pids)
        while len(pids.read_text().split()) < 2:
            time.sleep(0.02)
        for number in range(interrupts):
            found.interrupt()
            while len(said) <= number:
                time.sleep(0.02)

    threading.Thread(target=interrupt).start()
    before = time.monotonic()
    assert found.run() == 130
    assert time.monotonic() - before < 15
    assert len(said) == interrupts
    assert not any(is_alive(int(pid)) for pid in pids.read_text().split())


def test_one_interrupt_is_enough_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STOP_SECONDS", "INSIST_SECONDS"):
        monkeypatch.setattr(f"semigrid.grid.run.supervise.{name}", 0.1)
    ignores = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    ignores += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    found, lives, said = supervisor(tmp_path, ignores)
    threading.Thread(target=lambda: (wait_for(lives), found.interrupt())).start()
    assert found.run() == 130
    assert len(said) == 3


def test_one_that_has_reported_its_end_may_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semigrid.grid.run.supervise.EXIT_SECONDS", 0.1)
    found, _, said = supervisor(tmp_path, "say_ended(1)\ntime.sleep(60)")
    assert found.run() == 1 and said == []


def test_one_that_lost_ray_and_hangs_at_its_exit_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semigrid.grid.run.supervise.EXIT_SECONDS", 0.1)
    hangs = (
        "say_began()\nif lives.read_text() == 'x':\n    say_lost('a node')\n    time.sleep(60)\n"
    )
    found, lives, said = supervisor(tmp_path, hangs + "say_ended(0)")
    before = time.monotonic()
    assert found.run() == 0 and time.monotonic() - before < 20
    assert lives.read_text() == "xx"
    assert len(said) == 1 and "(a node: see above" in said[0]


def test_one_that_cannot_die_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semigrid.grid.run.supervise.STOP_SECONDS", 0.1)
    monkeypatch.setattr("semigrid.grid.run.supervise.INSIST_SECONDS", 0.1)
    killed: list[subprocess.Popen[bytes]] = []
    # as if it waited for a disk that is away: signals stay pending
    monkeypatch.setattr(subprocess.Popen, "kill", lambda process: killed.append(process))
    ignores = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    ignores += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(20)"
    found, lives, _ = supervisor(tmp_path, ignores)
    threading.Thread(target=lambda: (wait_for(lives), found.interrupt())).start()
    before = time.monotonic()
    assert found.run() == 130
    assert time.monotonic() - before < 15 and killed[0].poll() is None
    killed[0].send_signal(signal.SIGKILL)
    killed[0].wait()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


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
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)
