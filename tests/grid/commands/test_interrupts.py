"""Interrupts end a command, whatever it does, and print no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Takes the signals, starts a process that ignores them, and waits in C for ever.
STUCK = """
import ctypes, signal, subprocess, sys
from semigrid.grid.commands import interrupts
interrupts.TIDY_SECONDS = float(sys.argv[1])
interrupts.Interrupts().take()
child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen(
    [sys.executable, "-c", child], start_new_session=True, stdout=subprocess.DEVNULL
)
print(child.pid, flush=True)
mutex = ctypes.create_string_buffer(64)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def stuck(seconds: float, *before: str) -> tuple[subprocess.Popen[str], int]:
    command = [*before, sys.executable, "-c", STUCK, str(seconds)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def ended(process: subprocess.Popen[str], child: int) -> str:
    """What a process printed to stderr; it and its child must be gone."""
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "Traceback" not in err
    return err


def test_the_third_interrupt_ends_a_command_and_what_it_started() -> None:
    process, child = stuck(60)
    assert process.stderr is not None
    time.sleep(0.1)
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.6)
    assert process.stderr.readline() == "\n"
    assert "a third interrupt ends every process" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "was ended" in ended(process, child)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_is_enough_in_the_end(number: int) -> None:
    process, child = stuck(0.1)
    time.sleep(0.1)
    process.send_signal(number)
    assert "was ended" in ended(process, child)


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    program = f"{ignore}; os.execv(sys.argv[1], sys.argv[1:])"
    process, child = stuck(0.1, sys.executable, "-c", program)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    ended(process, child)


# A command that tidies up, and a driver at work, between two signals that arrive together.
TIDIES = """
import os, signal, sys, threading, time
from semigrid.grid.commands.interrupts import Interrupts
from semigrid.grid.commands.run import _take_signals
_take_signals(threading.Event()) if sys.argv[1] == "driver" else Interrupts().take()
def send():
    for word in sys.argv[2:]:
        time.sleep(0.1)
        os.kill(os.getpid(), getattr(signal, word))
threading.Thread(target=send).start()
try:
    time.sleep(10)
except KeyboardInterrupt:
    time.sleep(0.4)
    print("tidied")
"""


@pytest.mark.parametrize(
    "words",
    [
        ("command", "SIGHUP", "SIGHUP"),  # a closed terminal
        ("command", "SIGTERM", "SIGTERM"),  # `timeout`
        ("driver", "SIGINT", "SIGTERM"),  # a batch system, and the supervisor
    ],
)
def test_signals_that_arrive_together_are_one_interrupt(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-c", TIDIES, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "tidied\n", "")


@pytest.mark.parametrize("module", ["typer", "semigrid.grid.study.plan"])
def test_an_interrupt_while_modules_are_imported_prints_no_traceback(module: str) -> None:
    program = f"""
import os, signal, sys
from semigrid.grid.commands.main import main
assert "typer" not in sys.modules and "rich" not in sys.modules
class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, env=os.environ
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_signal_waits_while_the_main_thread_blocks_it() -> None:
    program = """
import os, signal, time
from semigrid.grid.commands.interrupts import Interrupts
Interrupts().take()
time.sleep(0.1)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.1)
print("blocked")
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["blocked", "interrupted"], done.stderr
