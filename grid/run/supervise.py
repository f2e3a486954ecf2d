"""A driver in a process of its own, started again when it dies.

Ray ends the process that drives it when the head of its cluster is lost, and the system may kill it
for its memory. The ledger and the checkpoints hold all that the next driver needs.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from semigrid.grid.run.surroundings import scratch_folder

# How many times in a row to restart a driver that dies.
RESTARTS = 5
# Age at which a driver's death starts the count anew, in seconds.
LIVED_WELL = 600.0
# Wait before the first restart, in seconds; doubled each time, since a lost head may take a while.
FIRST_WAIT = 2.0
# Environment variables that a driver gets from its supervisor: a folder that is removed even if the
# driver is killed; the supervisor's process; and, if it replaces a driver that died, a flag.
SCRATCH = "SEMIGRID_DRIVER_SCRATCH"
SUPERVISOR = "SEMIGRID_SUPERVISOR"
RESTARTED = "SEMIGRID_DRIVER_RESTARTED"
# The file in the folder that holds the exit code of a driver that ended.
ENDED = "ended"
PR_SET_PDEATHSIG = 1


class Supervisor:
    """Runs a command again and again until it reports its end.

    Args:
        command: must call ``follow_supervisor`` at its start and ``say_ended`` at its end.
        say: receives a message about each death.
    """

    def __init__(self, command: Sequence[str], say: Callable[[str], None]):
        self.command, self.say = list(command), say
        self._child: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def run(self) -> int:
        """Returns the exit code that the command reported, or 1 if it died too often."""
        deaths = 0
        with scratch_folder() as folder:
            environment = {**os.environ, SUPERVISOR: str(os.getpid()), SCRATCH: folder}
            ended = Path(folder, ENDED)
            while not self._interrupted:
                started = time.monotonic()
                code = self._run_once(environment)
                if ended.exists():
                    return int(ended.read_text())
                if self._interrupted:
                    break
                environment[RESTARTED] = "1"
                deaths = 1 if time.monotonic() - started > LIVED_WELL else deaths + 1
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                if deaths > RESTARTS:
                    self.say(
                        f"the process that drives the run died {deaths} times in a row, the last "
                        f"time by {how}; finished trials are kept, and the same command resumes"
                    )
                    return 1
                why = "killed, for its memory perhaps" if code < 0 else "see above"
                wait = FIRST_WAIT * 2 ** (deaths - 1)
                self.say(
                    f"the process that drives the run died ({how}: {why}, or Ray's head was lost); "
                    f"it starts again in {wait:g} seconds"
                )
                until = time.monotonic() + wait
                while time.monotonic() < until and not self._interrupted:
                    time.sleep(min(0.1, wait))
        return 130

    def _run_once(self, environment: dict[str, str]) -> int:
        # blocked until ``follow_supervisor``: an interrupt then waits until the driver can take it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # The driver has a group of its own: a terminal's Ctrl-C reaches it once, through
            # ``interrupt``. It has no input: reading from the terminal would stop it.
            self._child = subprocess.Popen(
                self.command, env=environment, process_group=0, stdin=subprocess.DEVNULL
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._interrupted:
            self._child.send_signal(signal.SIGINT)
        return self._child.wait()

    def interrupt(self, *_: object) -> None:
        """Asks the command to stop, as Ctrl-C would; ``run`` returns when it has. A signal handler.

        Only the first call has an effect: a second interrupt would break off the tidying up.
        """
        if not self._interrupted:
            self._interrupted = True
            if self._child is not None:
                self._child.send_signal(signal.SIGINT)


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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(supervisor):  # it died before that
        os.kill(os.getpid(), signal.SIGKILL)


def say_ended(code: int) -> None:
    """Reports to the supervisor that this process ends with this exit code, and did not die."""
    folder = os.environ.get(SCRATCH)
    if folder is not None:
        beside = Path(folder, f"{ENDED}.tmp")
        beside.write_text(str(code))
        beside.replace(Path(folder, ENDED))  # whole or not at all: a kill in between is a death
