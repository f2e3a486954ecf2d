"""What is said on a terminal that is gone is lost, and nothing else."""

import errno
import io
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


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), BrokenPipeError()])
def test_remarks_outlive_their_terminal(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Terminal(stderr=True)
    monkeypatch.setattr(sys, "stderr", Gone(error))
    console.print("lost")
    there = io.StringIO()
    monkeypatch.setattr(sys, "stderr", there)
    console.print("there")
    assert there.getvalue() == "there\n"
