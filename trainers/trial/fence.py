"""Attempts at a trial, of which only the latest may write.

A node that is cut off from its cluster is not dead: its process trains on while another one was
started for the same trial, and may still reach the storage. The driver therefore writes a token for
each attempt into the run's folder, and the attempt's process compares it before it writes.
"""

import uuid
from dataclasses import dataclass

from semigrid.data.storage import Storage
from semigrid.trainers.layout import attempt_file


class FencedError(RuntimeError):
    """This attempt at a trial was given up: it may write nothing more."""


def begin_attempt(storage: Storage, trial_id: str) -> str:
    """Gives up all earlier attempts at the trial, and returns the token of a new one."""
    token = uuid.uuid4().hex
    storage.write(attempt_file(trial_id), token.encode())
    return token


def end_attempts(storage: Storage, trial_id: str) -> None:
    """Gives up all attempts at the trial."""
    storage.delete(attempt_file(trial_id))


@dataclass(frozen=True)
class Fence:
    """The check that an attempt at a trial makes before it writes.

    An attempt may begin parts of itself, one after the other, with ``next_part``: only the last
    part may write, and only while the attempt itself still may. It asks right before each change:
    plain storage has no way to make both one step. ``storage`` must exist.
    """

    storage: Storage
    trial_id: str
    token: str

    def check(self) -> None:
        """Raises ``FencedError`` when this attempt was given up, ``OSError`` if it cannot tell."""
        try:
            current = self.storage.read(attempt_file(self.trial_id)).decode()
        except FileNotFoundError:
            current = ""
        if current != self.token and not current.startswith(f"{self.token}."):
            raise FencedError(
                f"trial {self.trial_id}: this attempt at it was given up, another one may be at "
                "work; nothing more is written"
            )

    def next_part(self) -> str:
        """Gives up earlier parts of this attempt, and returns the token of a new one."""
        self.check()
        token = f"{self.token}.{uuid.uuid4().hex}"
        self.storage.write(attempt_file(self.trial_id), token.encode())
        return token
