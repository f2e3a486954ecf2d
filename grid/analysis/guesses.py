"""Whether a cell has learnt: how likely guesses are to score as it does. Pure."""

from functools import lru_cache

import numpy as np
from scipy import stats

from semigrid.grid.analysis.statistics import LEVEL, Weighted

_STEPS = 2**15  # of a score from 0 to 1, as its distribution is computed


def is_above_chance(cell: Weighted, chance: float, level: float = LEVEL) -> bool:
    """Whether guesses would certainly score less than a cell does.

    Seeds count as one: they may guess alike, and guesses do not scatter over seeds as trainings
    do. Three seeds at 98, 90 and 82 % have learnt, though by Student's t with two degrees of
    freedom the mean of all trainings may lie anywhere once the level is corrected for many cells.

    Args:
        chance: the share of images that a guess puts into their class.
        level: as of a two-sided interval: guesses pass with a probability of (1 − level) / 2.
    """
    return guesses_p(cell, chance) < (1 - level) / 2


def guesses_p(cell: Weighted, chance: float) -> float:
    """How likely guesses of one seed score at least as much as a cell, at most 0.1 points more.

    The distribution is that of a sum of binomials, one for each weight that images have, computed
    by a Fourier transform. An interval by a normal approximation would not do: where rare classes
    have few test images the score of guesses is skewed, and passes four times as often as promised.
    """
    weights, counts = np.unique(np.round(cell.weights, 12), return_counts=True)
    tail = _tail(tuple(weights.tolist()), tuple(counts.tolist()), chance)
    return float(tail[int(cell.mean() * _STEPS)])


@lru_cache(maxsize=64)
def _tail(weights: tuple[float, ...], counts: tuple[int, ...], chance: float) -> np.ndarray:
    """The probability of a score of at least i steps, by i; each binomial is rounded up to one."""
    size = 2 * _STEPS + 2 * len(weights)
    spectrum = np.ones(size // 2 + 1, complex)
    for weight, count in zip(weights, counts, strict=True):
        right = np.arange(count + 1)
        steps = np.ceil(right * weight * _STEPS - 1e-6).astype(int)
        spectrum *= np.fft.rfft(np.bincount(steps, stats.binom.pmf(right, count, chance)), size)
    density = np.maximum(0.0, np.fft.irfft(spectrum, size))
    return density[::-1].cumsum()[::-1]
