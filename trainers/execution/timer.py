"""When to take a checkpoint: by time, and yet in the same step on all ranks."""

import time
from collections.abc import Callable
from typing import Any

# Most steps until the next look at the clock, as a multiple of those since the last one.
GROWTH = 4


class CheckpointTimer:
    """Says after which steps a checkpoint is due: when the last one is so many seconds old.

    Rank 0's clock decides, in a few steps only. In each of them, all ranks learn whether a
    checkpoint is due and which step is the next to look in, so none of the others meets the others.
    The first look is after one step, which may compile the model; from there on the speed is known.

    Args:
        seconds: time between two checkpoints; 0 for one after every step.
        step: number of steps done before.
        gather: as ``Runtime.gather``.
    """

    def __init__(self, seconds: float, step: int, gather: Callable[[Any], list[Any]]):
        self._seconds, self._gather = seconds, gather
        self._saved_at = self._looked_at = time.monotonic()
        self._looked, self._next = step, step + 1

    def due(self, step: int) -> bool:
        """Whether all ranks save a checkpoint now, with this number of steps done."""
        if step < self._next:
            return False
        now, steps = time.monotonic(), step - self._looked
        pace = max(now - self._looked_at, 1e-6) / steps
        left = self._seconds - (now - self._saved_at)
        due = left < pace / 2  # a step later, it would be further from its time
        ahead = round((self._seconds if due else left) / pace)
        ahead = max(1, min(ahead, GROWTH * steps))
        decision: tuple[bool, int] = self._gather((due, step + ahead))[0]
        self._looked, self._looked_at, self._next = step, now, decision[1]
        return decision[0]

    def saved(self) -> None:
        """A checkpoint has been saved, also one that was not asked for here."""
        self._saved_at = time.monotonic()
