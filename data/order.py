"""The order of an endless stream as a pure function of (seed, position)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Span:
    """The rows of one unit in one pass; they occupy the stream positions from ``start`` on."""

    pass_number: int
    unit: int
    start: int
    rows: int


class StreamOrder:
    """Endless passes over rows that are stored in units (row groups).

    Each pass visits the units in a new seeded order, and the rows of each unit in a new seeded
    order, so a reader holds one unit in memory at a time. The order depends on nothing else: a
    resumed run starts at its position, and rank and world size select positions.

    Args:
        unit_rows: rows per unit, in stored order. With a single unit each pass is a full shuffle.
        seed: seed of the order.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, unit_rows: Sequence[int], seed: int):
        self.unit_rows = tuple(unit_rows)
        self.seed = seed
        self.total = sum(self.unit_rows)
        self.unit_starts = tuple(int(s) for s in np.cumsum((0, *self.unit_rows))[:-1])
        if self.total == 0:
            raise ValueError("a stream needs at least one row")
        self._pass_layout = lru_cache(maxsize=2)(self._lay_out_pass)
        self._unit_order = lru_cache(maxsize=64)(self._order_unit)

    def __reduce__(self) -> tuple[type["StreamOrder"], tuple[tuple[int, ...], int]]:
        return StreamOrder, (self.unit_rows, self.seed)  # the caches do not pickle

    def _lay_out_pass(self, pass_number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, pass_number))
        units = rng.permutation(len(self.unit_rows))
        ends = np.cumsum(np.asarray(self.unit_rows)[units])
        return units, ends

    def _order_unit(self, pass_number: int, unit: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, pass_number, unit, 1))
        return rng.permutation(self.unit_rows[unit])

    def span_at(self, number: int) -> Span:
        """The span with this number, counted from 0 over all passes."""
        pass_number, place = divmod(number, len(self.unit_rows))
        units, ends = self._pass_layout(pass_number)
        unit = int(units[place])
        rows = self.unit_rows[unit]
        return Span(pass_number, unit, pass_number * self.total + int(ends[place]) - rows, rows)

    def span_number(self, position: int) -> int:
        """The number of the span that holds a stream position."""
        pass_number, offset = divmod(position, self.total)
        _, ends = self._pass_layout(pass_number)
        return pass_number * len(self.unit_rows) + int(np.searchsorted(ends, offset, side="right"))

    def rows_of(self, span: Span) -> np.ndarray:
        """Indices of the span's rows within its unit, in stream order, shape (rows,)."""
        return self._unit_order(span.pass_number, span.unit)

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yields (pass, row) for the positions from ``start`` up to ``stop``, not included."""
        number = self.span_number(start)
        position = start
        while position < stop:
            span = self.span_at(number)
            order = self.rows_of(span)
            last = min(stop, span.start + span.rows)
            for within in order[position - span.start : last - span.start]:
                yield span.pass_number, self.unit_starts[span.unit] + int(within)
            position = last
            number += 1


@dataclass(frozen=True)
class Share:
    """The contiguous slice of each global batch that belongs to a rank; all ranks have equal ones.

    Raises ``ValueError`` when the world size does not divide the global batch size.
    """

    global_batch_size: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.global_batch_size % self.world_size:
            raise ValueError(
                f"a global batch of {self.global_batch_size} cannot be divided equally among "
                f"{self.world_size} workers"
            )

    @property
    def local_batch_size(self) -> int:
        return self.global_batch_size // self.world_size

    def positions(self, step: int) -> tuple[int, int]:
        """Start and stop position of this rank's part of the batch at ``step``."""
        start = step * self.global_batch_size + self.rank * self.local_batch_size
        return start, start + self.local_batch_size

    def owns(self, position: int) -> bool:
        return position % self.global_batch_size // self.local_batch_size == self.rank
