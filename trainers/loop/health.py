"""The end of a training that leads to nothing (docs/methods.md §6)."""

from typing import Literal


class HopelessError(RuntimeError):
    """The training leads to nothing.

    It ``diverged`` when its loss, or what the model predicts, is no longer a finite number; it
    ``collapsed`` when its method's ``health`` says so.
    """

    def __init__(self, status: Literal["diverged", "collapsed"], reason: str):
        super().__init__(reason)
        self.status = status
