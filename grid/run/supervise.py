"""A driver in a process of its own, started again when it dies.

Ray ends the process that drives it when the head of its cluster is lost, and the system may kill
it for its memory. The ledger and the checkpoints hold all that the next one needs.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Deaths in a row after which it is given up; one that lived this long (s) starts the count anew.
RESTARTS = 5
LIVED_WELL = 600.0
# Seconds before the first new start, doubled each time: a lost head may take a while to return.
FIRST_WAIT = 2.0
ENDED = "SEMIGRID_DRIVER_ENDED"
SUPERVISOR = "SEMIGRID_SUPERVISOR"
RESTARTED = "SEMIGRID_DRIVER_RESTARTED"
PR_SET_PDEATHSIG = 1


class DriverGoneError(RuntimeError):
    """The driver died more often than it is started again."""


class Supervisor:
    """Runs a command until it says itself that it has ended.

    Args:
        command: has to call ``follow_supervisor`` at its start and ``say_ended`` at its end.
        say: is told of each death.
    """

    def __init__(
        self,
        command: Sequence[str],
        say: Callable[[str], None],
        restarts: int = RESTARTS,
        first_wait: float = FIRST_WAIT,
    ):
        self.command, self.say = list(command), say
        self.restarts, self.first_wait = restarts, first_wait
        self._child: subprocess.Popen[bytes] | None = None
        self._interrupted = False

    def run(self) -> int:
        """The exit code that the command said. Raises ``DriverGoneError``."""
        deaths = 0
        died_before = False
        with tempfile.TemporaryDirectory(prefix="semigrid-driver-") as folder:
            ended = Path(folder) / "ended"
            while True:
                started = time.monotonic()
                code = self._run_once(ended, died_before)
                if ended.exists():
                    return int(ended.read_text())
                if self._interrupted:
                    return 130
                died_before = True
                deaths = 1 if time.monotonic() - started > LIVED_WELL else deaths + 1
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                why = "killed, for its memory perhaps" if code < 0 else "see above"
                if deaths > self.restarts:
                    raise DriverGoneError(
                        f"the process that drives the run died {deaths} times in a row, the last "
                        f"time by {how}; finished trials are kept"
                    )
                wait = self.first_wait * 2 ** (deaths - 1)
                self.say(
                    f"the process that drives the run died ({how}: {why}, or Ray's head was lost); "
                    f"it starts again in {wait:g} seconds"
                )
                self._sleep(wait)
                if self._interrupted:
                    return 130

    def _run_once(self, ended: Path, again: bool) -> int:
        environment = {**os.environ, ENDED: str(ended), SUPERVISOR: str(os.getpid())}
        environment |= {RESTARTED: "1"} if again else {}
        # a group of its own: what a terminal sends reaches it once, through ``interrupt``
        # it takes an interrupt once it is ready to: see ``follow_supervisor``
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            # reading from the terminal would then stop it, as Ctrl-Z does: it has no input
            self._child = subprocess.Popen(
                self.command, env=environment, process_group=0, stdin=subprocess.DEVNULL
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self._interrupted:
            self._child.send_signal(signal.SIGINT)
        return self._child.wait()

    def interrupt(self, *_: object) -> None:
        """Asks the command to stop, as Ctrl-C would; ``run`` returns when it has.

        Also a signal handler. Asked again it does nothing: a second interrupt would break off the
        command's tidying up.
        """
        if not self._interrupted:
            self._interrupted = True
            if self._child is not None:
                self._child.send_signal(signal.SIGINT)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._interrupted:
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))


def follow_supervisor() -> None:
    """Makes this process die with its supervisor: no driver goes on without the run's lock.

    An interrupt that came before this is raised here.
    """
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is None:
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(supervisor):  # it died before that
        os.kill(os.getpid(), signal.SIGKILL)


def is_restarted() -> bool:
    """Whether this process was started in the place of one that died."""
    return RESTARTED in os.environ


def scratch_folder() -> str | None:
    """A folder that the supervisor removes, also after a driver that was killed."""
    path = os.environ.get(ENDED)
    return None if path is None else os.path.dirname(path)


def say_ended(code: int) -> None:
    """Tells the supervisor that this is the end, and no death."""
    path = os.environ.get(ENDED)
    if path is not None:
        beside = Path(f"{path}.tmp")
        beside.write_text(str(code))
        beside.replace(path)  # whole or not at all: a kill in between is a death
