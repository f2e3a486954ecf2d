"""What Ctrl-C, SIGTERM and a closed terminal do: ask, insist, end everything."""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from semigrid.grid.run.processes import kill_all, started_by

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Signals within this time are one interrupt, in seconds: both the kernel and the shell tell of a
# closed terminal, and ``timeout`` signals its command and then the group that it is in.
TOGETHER_SECONDS = 0.5
# Longest time that a command may take to end after an interrupt, in seconds.
TIDY_SECONDS = 60.0
# Time after which a command says that it is stopping, and between two looks, in seconds.
TELL_SECONDS, LOOK_SECONDS = 2.0, 0.1
EXIT_CODE = 130
SHOW_CURSOR = b"\x1b[?25h"


def one_of_those_together(handle: Callable[..., None]) -> Callable[..., None]:
    """A signal handler that passes on the first of those that arrive together."""
    last = float("-inf")

    def handle_one(*args: object) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= TOGETHER_SECONDS:
            last = now
            handle(*args)

    return handle_one


class Interrupts:
    """Ends a command by signals, however stuck it is.

    The first signal raises ``KeyboardInterrupt`` in the main thread: the command tidies up. The
    second raises it again and breaks that off. The third, or ``TIDY_SECONDS`` after the first, ends
    this process and all that it started: by a thread, since the main thread may wait for a library
    that never returns. A handler that a command installs itself replaces all this.
    """

    def __init__(self) -> None:
        self._raise = one_of_those_together(_raise)

    def take(self) -> None:
        """Handles the signals from now on; must be called in the main thread."""
        for number in SIGNALS:
            # ``nohup`` lets a command outlive its terminal
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._raise)
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), name="interrupts", daemon=True).start()

    def leave(self) -> None:
        """Lets any further signal end this process at once: its work is done."""
        for number in SIGNALS:
            if signal.getsignal(number) == self._raise:
                signal.signal(number, signal.SIG_DFL)

    def _watch(self, pipe: int) -> None:
        """Counts the signals that arrive, whatever the main thread does."""
        # the main thread alone takes signals, so that it can block them for a while
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        count, told = 0, False
        asked = float("inf")  # when the first one arrived

        @one_of_those_together
        def interrupt() -> None:
            nonlocal count, asked
            count, asked = count + 1, min(asked, time.monotonic())
            if count == 2:
                _tell("still stopping; a third interrupt ends every process of this command")
            elif count == 3:
                _end()

        while (waited := time.monotonic() - asked) < TIDY_SECONDS:
            if count == 1 and waited > TELL_SECONDS and not told:
                told = True
                _tell("stopping; a second interrupt insists, a third one ends every process")
            if not select.select([pipe], [], [], None if count == 0 else LOOK_SECONDS)[0]:
                continue
            for number in os.read(pipe, 512):
                if number in SIGNALS and signal.getsignal(number) == self._raise:
                    interrupt()
        _end()


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end() -> NoReturn:
    _tell("stopped: every process of this command was ended")
    kill_all(lambda: started_by([os.getpid()]))
    os._exit(EXIT_CODE)


def _tell(words: str) -> None:
    """Writes to stderr at once: the main thread may hold the locks of everything that prints."""
    with contextlib.suppress(OSError):
        cursor = SHOW_CURSOR if os.isatty(2) else b""
        os.write(2, cursor + f"\n{words}\n".encode())
