"""What more unlabelled images do for a model, and where that turns.

Pure: arrays in, numbers and text out. Accuracy is taken to be a parabola over the logarithm of the
pool's size, with two sizes a straight line. Every estimate is a weighted sum of the cells'
accuracies, so that images and seeds enter as in ``statistics.contrast``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from semigrid.grid.analysis.numbers import show_basis, show_difference
from semigrid.grid.analysis.statistics import LEVEL, Comparison, Weighted, contrast


@dataclass(frozen=True)
class Turn:
    """The pool's size above which more of it hurts: the best estimate and its interval, in images.

    None stands for an end beyond the sizes that were tried.
    """

    images: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PoolCurve:
    """How accuracy changes with the pool; differences are shares from 0 to 1.

    ``doubling`` is what each doubling adds on average, ``at_end`` what the curve says of another
    doubling at the largest pool; ``best`` is the pool with the highest accuracy. ``turn`` exists
    where the curve certainly bends downwards and its top is within the pools that were tried.
    """

    pools: tuple[int, ...]
    best: int
    doubling: Comparison
    at_end: Comparison
    turn: Turn | None

    def text(self, name: str) -> str:
        """What more unlabelled images do for the model of this name."""
        if self.doubling.is_vague:
            return (
                f"{name}: whether more unlabelled images help cannot be said from "
                f"{show_basis(self.doubling)}."
            )
        each = f"a doubling of the pool changes it by {show_difference(self.doubling)}"
        if self.turn is not None:
            low = "the fewest" if self.turn.low is None else f"{self.turn.low:,.0f}"
            high = "beyond the most" if self.turn.high is None else f"{self.turn.high:,.0f}"
            return (
                f"{name}: more unlabelled images help up to about {self.turn.images:,.0f} (95% "
                f"interval {low} to {high}), then hurt; {each}."
            )
        if self.doubling.interval.low > 0:
            still = self.at_end.interval.low > 0
            end = "and still do" if still else "though whether they still do is open"
            return f"{name}: more unlabelled images help, {end} at {self.pools[-1]:,}; {each}."
        if self.doubling.interval.high < 0:
            return f"{name}: more unlabelled images hurt: {self.pools[0]:,} do better; {each}."
        return (
            f"{name}: whether more unlabelled images help cannot be told between "
            f"{self.pools[0]:,} and {self.pools[-1]:,}; {each}."
        )


def pool_curve(cells: Mapping[int, Weighted]) -> PoolCurve | None:
    """The curve through cells that differ in their pool only; None with fewer than two.

    Args:
        cells: of each cell the score on the same test images, by images in its pool.
    """
    if len(cells) < 2:
        return None
    pools = sorted(cells)
    rights = [cells[pool] for pool in pools]
    best = max(pools, key=lambda pool: float(cells[pool].mean()))
    x = np.log2(np.array(pools, float))
    middle = float(x.mean())
    line = np.linalg.pinv(np.vander(x - middle, 2))[0]
    doubling = contrast(list(line), rights)
    if len(pools) == 2:
        return PoolCurve(tuple(pools), best, doubling, doubling, None)
    bend, slope, _ = np.linalg.pinv(np.vander(x - middle, 3))

    def rise(at: float) -> Comparison:
        """The curve's slope at a pool's size, given as log2."""
        return contrast([float(each) for each in slope + 2 * (at - middle) * bend], rights)

    def beyond(at: float) -> float:
        """How much steeper the curve is there than chance explains (Fieller 1954)."""
        slope = rise(at)
        return abs(slope.difference) - (slope.difference - slope.interval.low)

    def end(at: float) -> float | None:
        return float(2 ** float(brentq(beyond, top, at))) if beyond(at) > 0 else None

    turn = None
    bent = contrast(list(bend), rights)
    if bent.difference < 0 and bent.p < 1 - LEVEL:
        top = middle - rise(middle).difference / (2 * bent.difference)
        if x[0] <= top <= x[-1]:
            turn = Turn(float(2**top), end(x[0]), end(x[-1]))
    return PoolCurve(tuple(pools), best, doubling, rise(x[-1]), turn)
