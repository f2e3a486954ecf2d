"""What is said on a terminal that is gone is lost, and nothing else."""

import contextlib
import errno
import io
import os
import subprocess
import sys

import pytest

from semigrid.grid.status.terminal import Terminal


class Gone(io.StringIO):
    """A stream of a closed terminal, or of a pipe that nobody reads."""

    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


def test_a_tab_is_as_many_blanks_and_other_controls_are_seen() -> None:
    file = io.StringIO()
    Terminal(file, width=80).print("a\tb\x1b", soft_wrap=True)
    assert file.getvalue() == "a       b\\x1b\n"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), BrokenPipeError()])
def test_remarks_outlive_their_terminal(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Terminal(stderr=True)
    monkeypatch.setattr(sys, "stderr", Gone(error))
    console.print("lost")
    there = io.StringIO()
    monkeypatch.setattr(sys, "stderr", there)
    console.print("there")
    assert there.getvalue() == "there\n"


BAR = """
import time
from semigrid.grid.commands.console import progress_bar, say
with progress_bar("images") as progress:
    for done in range(3):
        progress(done + 1, 3)
        say(f"remark {done}")
"""


def test_a_bar_and_remarks_share_a_terminal() -> None:
    leader, follower = os.openpty()
    # more than fits the terminal's buffer would wait for its reader
    process = subprocess.Popen([sys.executable, "-c", BAR], stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody writes any more
        while part := os.read(leader, 4096):
            shown += part
    assert process.wait(30) == 0
    os.close(leader)
    assert b"remark 0" in shown and b"3/3" in shown
