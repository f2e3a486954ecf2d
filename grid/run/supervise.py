"""A driver in a process of its own, started again where that can help.

Ray ends the process that drives it when the head of its cluster is lost, and the system may kill it
for its memory. The ledger and the checkpoints hold all that the next driver needs. Any other error
would come again: the driver reports it, and the run ends.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from semigrid.grid.run.processes import END_SECONDS, PAUSE_SECONDS, kill_all, send, started_by
from semigrid.grid.run.surroundings import scratch_folder

# How many times in a row to restart a driver that dies.
RESTARTS = 5
# And one that dies before it drives Ray: what it lacked there, the next one lacks too, mostly.
EARLY_RESTARTS = 1
# Age at which a driver's death starts the count anew, in seconds.
LIVED_WELL = 600.0
# Wait before the first restart, in seconds; doubled each time, since a lost head may take a while.
FIRST_WAIT = 2.0
# Longest time that a driver may take to stop: after an interrupt, after a second one, and to exit
# once it has reported its end or that it lost Ray; in seconds.
STOP_SECONDS, INSIST_SECONDS, EXIT_SECONDS = 60.0, 15.0, 20.0
# Time between two looks at a driver, in seconds.
LOOK_SECONDS = 0.1
# Environment variables that a driver gets from its supervisor: a folder that is removed even if the
# driver is killed; the supervisor's process and the pipe to it; and, if it replaces a driver that
# died while it drove Ray, a flag.
SCRATCH = "SEMIGRID_DRIVER_SCRATCH"
SUPERVISOR = "SEMIGRID_SUPERVISOR"
RESTARTED = "SEMIGRID_DRIVER_RESTARTED"
# What a driver reports: that it drives Ray from here on, why it lost Ray, its exit code at its end.
BEGAN, LOST, ENDED = "began", "lost", "ended"
PR_SET_PDEATHSIG = 1


class LostRayError(RuntimeError):
    """Ray lost its head, a node or a process of its own: another driver may do better."""


class Supervisor:
    """Runs a command until it reports its end, and again where it died of what may pass.

    An interrupt asks the command to stop, a second one insists, a third one kills it. Nothing that
    the command started outlives it.

    Attributes:
        environment: variables that the command gets besides those of this process.
        interrupts: how often it was interrupted; ``quiet`` is true if nothing is said about it.

    Args:
        command: must call ``follow_supervisor`` at its start, ``say_began`` before it starts or
            joins Ray, and ``say_ended`` at its end.
        say: receives a message about each death, and about interrupts.
        resume: what to type to go on after an interrupt.
        keep_logs: receives the folder of a command that died; returns words on what it kept.
    """

    def __init__(
        self,
        command: Sequence[str],
        say: Callable[[str], None],
        resume: str = "",
        keep_logs: Callable[[str], str] = lambda folder: "",
    ):
        self.command, self.say, self.resume = list(command), say, resume
        self.keep_logs = keep_logs
        self.environment: dict[str, str] = {}
        self.interrupts = 0
        self.quiet = False

    def run(self) -> int:
        """Returns the exit code that the command reported, or 1 if it died for good."""
        deaths = early = 0
        began = False
        with scratch_folder() as folder:
            while not self.interrupts:
                started = time.monotonic()
                driver = _Driver(self, folder, restarted=began)
                code = driver.run()
                told = driver.told
                if ENDED in told:
                    return int(told[ENDED])
                if self.interrupts:
                    break
                how = told.get(LOST) or (f"signal {-code}" if code < 0 else f"exit code {code}")
                how += self.keep_logs(folder)
                began = began or BEGAN in told
                early = 0 if BEGAN in told else early + 1
                # the system kills for lack of memory; anything else would come again
                passing = LOST in told or -code == signal.SIGKILL
                if early > (EARLY_RESTARTS if passing else 0):
                    self.say(
                        f"the process that drives the run died at its start ({how}: see above); "
                        "finished trials are kept, and the same command resumes"
                    )
                    return 1
                deaths = 1 if time.monotonic() - started > LIVED_WELL else deaths + 1
                if deaths > RESTARTS:
                    self.say(
                        f"the process that drives the run died {deaths} times in a row, the last "
                        f"time by {how}; finished trials are kept, and the same command resumes"
                    )
                    return 1
                wait = FIRST_WAIT * 2 ** (deaths - 1)
                why = "killed, for its memory perhaps" if how.startswith("signal") else "see above"
                self.say(
                    f"the process that drives the run died ({how}: {why}, or Ray's head was lost); "
                    f"it starts again in {wait:g} seconds"
                )
                until = time.monotonic() + wait
                while time.monotonic() < until and not self.interrupts:
                    time.sleep(min(LOOK_SECONDS, wait))
        return 130

    def interrupt(self, *_: object) -> None:
        """Asks the command to stop, then insists, then kills it. A signal handler."""
        self.interrupts += 1

    def stop(self) -> None:
        """Asks the command to stop, without a word."""
        if not self.interrupts:
            self.quiet = True
            self.interrupts = 1


class _Driver:
    """One process of a supervisor's command; ``told`` is what it has reported."""

    def __init__(self, supervisor: Supervisor, folder: str, restarted: bool):
        self.told: dict[str, str] = {}
        self._supervisor, self._folder, self._buffer = supervisor, folder, b""
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        environment = {**os.environ, **supervisor.environment, SCRATCH: folder}
        environment[SUPERVISOR] = f"{os.getpid()} {theirs}"
        if restarted:
            environment[RESTARTED] = "1"
        # blocked until ``follow_supervisor``: an interrupt then waits until the driver can take it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # The driver has a group of its own: a terminal's Ctrl-C reaches it once, through
            # the supervisor. It has no input: reading from the terminal would stop it.
            self._process = subprocess.Popen(
                supervisor.command,
                env=environment,
                process_group=0,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs],
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(theirs)

    def run(self) -> int:
        """Waits until the process has ended, with all that it started; returns its exit code."""
        asked, until = 0, float("inf")
        while True:
            try:
                code = self._process.wait(LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._hear()
            if self._is_done and until == float("inf"):
                asked, until = 2, time.monotonic() + EXIT_SECONDS
            if asked < 3 and (self._supervisor.interrupts > asked or time.monotonic() > until):
                asked += 1
                until = time.monotonic() + self._ask(asked)
            elif asked == 3 and time.monotonic() > until:
                code = -signal.SIGKILL  # killed, but waiting for a disk that is away
                break
        self._hear()
        os.close(self._pipe)
        self._end_rest()
        return code

    def _ask(self, times: int) -> float:
        """Asks the process to stop, the harder the more often; returns how long it may take."""
        say = self._supervisor.say
        if times == 1:
            if not self._supervisor.quiet:
                say(
                    "interrupted: finished trials are kept, running ones continue from their last "
                    "checkpoint. Waiting for Ray to stop; a second interrupt insists, a third one "
                    f"ends every process at once. To resume: {self._supervisor.resume}"
                )
            self._process.send_signal(signal.SIGINT)
            return STOP_SECONDS
        if times == 2:
            say("Ray does not stop by itself: its processes are asked to end")
            send([self._process.pid, *self._started()], signal.SIGTERM)
            return INSIST_SECONDS
        if not self._is_done:
            say("every process of this run is ended now")
        self._process.kill()
        kill_all(self._started)
        return END_SECONDS

    @property
    def _is_done(self) -> bool:
        return ENDED in self.told or LOST in self.told

    def _started(self) -> set[int]:
        return started_by([self._process.pid], f"{SCRATCH}={self._folder}") - {self._process.pid}

    def _end_rest(self) -> None:
        """Leaves nothing of a driver that is gone: the next one needs its memory and its GPUs."""
        until = time.monotonic() + END_SECONDS
        while self._started() and time.monotonic() < until and self._supervisor.interrupts < 3:
            time.sleep(PAUSE_SECONDS)
        kill_all(self._started)

    def _hear(self) -> None:
        """Reads what the process has reported: lines of a word and, after a space, its details."""
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self._pipe, 4096):
                self._buffer += text
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            word, _, details = line.decode(errors="replace").partition(" ")
            self.told[word] = details


def driver_folder() -> AbstractContextManager[str]:
    """The folder that this process has from its supervisor, or a new one, as ``scratch_folder``."""
    given = os.environ.get(SCRATCH)
    return scratch_folder() if given is None else nullcontext(given)


def follow_supervisor() -> None:
    """Makes this process die with its supervisor: no driver goes on without the run's lock.

    Raises ``KeyboardInterrupt`` if it was interrupted before.
    """
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    parent, pipe = map(int, supervisor.split())
    os.set_inheritable(pipe, False)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def say_began() -> None:
    """Reports to the supervisor that this process starts or joins Ray, and may die with it."""
    _tell(BEGAN)


def say_lost(why: str) -> None:
    """Reports to the supervisor why this process lost Ray."""
    _tell(f"{LOST} {why}")


def say_ended(code: int) -> None:
    """Reports to the supervisor that this process ends with this exit code, and did not die."""
    _tell(f"{ENDED} {code}")


def _tell(words: str) -> None:
    if (supervisor := os.environ.get(SUPERVISOR)) is not None:
        line = " ".join(words.split()) + "\n"
        with contextlib.suppress(OSError):  # a supervisor that is dead
            os.write(int(supervisor.split()[1]), line.encode()[:4000])
