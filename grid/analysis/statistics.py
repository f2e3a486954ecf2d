"""Intervals and comparisons of accuracies. Pure: arrays in, numbers out.

Accuracies are shares from 0 to 1. A cell has been trained on S seeds and evaluated on the same N
test images each time: ``right``, (S, N), tells whether seed s put image i into its class.
Intervals and tests refer to another sample of test images and, with two seeds or more, to another
training too. One seed does not show how much trainings scatter: there they refer to the trained
model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, at 95 % unless another level is named."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One cell's accuracy minus another's on the same images.

    ``p`` is two-sided and for this comparison alone: ``holm`` corrects it among others.
    """

    difference: float
    interval: Interval
    p: float


def mean(scores: Sequence[float]) -> float | None:
    """The mean over seeds; None without any."""
    return sum(scores) / len(scores) if scores else None


def std(scores: Sequence[float]) -> float | None:
    """The sample standard deviation over seeds; None with fewer than two."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def accuracy_interval(right: np.ndarray, level: float = LEVEL) -> Interval:
    """Wilson's interval of a cell's accuracy, from ``right`` (S, N).

    With several seeds it is that of the number of images that would vary as much by themselves as
    images and seeds do together, see ``combine``. That is at most S·N: in an array whose rows and
    columns could be exchanged, two results of one seed, or of one image, are never negatively
    correlated (Aldous 1981), so no S·N results tell more than as many independent ones.
    """
    seeds, images = right.shape
    share = float(right.mean())
    if seeds == 1 or share in (0.0, 1.0):
        return _wilson(share, images, _normal(level))
    _, variance, freedom = combine([1.0], [right])
    alike = min(share * (1 - share) / variance, right.size)
    return _wilson(share, alike, quantile(freedom, level))


def compare(first: np.ndarray, second: np.ndarray, level: float = LEVEL) -> Comparison:
    """Whether two cells differ, image by image, from (S, N) and (S', N) of the same N images.

    With one seed each: McNemar's exact test, and the interval of Agresti and Min (2005), which
    adds half an image to each kind of pair. With more: a t-test of the difference with the variance
    from ``combine``; a cell with one seed is taken to scatter as the other does.
    """
    if len(first) == len(second) == 1:
        by_image = first.mean(axis=0) - second.mean(axis=0)
        won, lost = int((by_image > 0).sum()), int((by_image < 0).sum())
        p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
        total = len(by_image) + 2
        middle = (won - lost) / total
        half = _normal(level) * (won + lost + 1 - (won - lost) ** 2 / total) ** 0.5
        interval = Interval(max(-1.0, middle - half / total), min(1.0, middle + half / total))
        return Comparison(float(by_image.mean()), interval, p)
    free = contrast([1.0, -1.0], [first, second], level)
    interval = Interval(max(-1.0, free.interval.low), min(1.0, free.interval.high))
    return Comparison(free.difference, interval, free.p)


def contrast(
    weights: Sequence[float], cells: Sequence[np.ndarray], level: float = LEVEL
) -> Comparison:
    """A weighted sum of cells' accuracies compared with zero by a t-test; see ``combine``."""
    value, variance, freedom = combine(weights, cells)
    half = float(quantile(freedom, level) * variance**0.5)
    p = float(2 * stats.t.sf(abs(value) / variance**0.5, freedom))
    return Comparison(value, Interval(value - half, value + half), p)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values in the given order, corrected for their number (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    left = len(p) - np.arange(len(p))  # hypotheses not yet rejected
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * left))
    return [float(value) for value in corrected]


def _wilson(share: float, images: float, z: float) -> Interval:
    """Wilson (1927); ``images`` need not be whole."""
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images)
    half *= (share * (1 - share) / images + (z / (2 * images)) ** 2) ** 0.5
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def combine(weights: Sequence[float], cells: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """A weighted sum of cells' accuracies, its variance, and the degrees of freedom of that.

    Each cell is a ``right``, (S, N), with its own number of seeds and the same N images. Seeds and
    images are both random, as readers and cases are in the studies for which Hillis (2007,
    Statistics in Medicine 26:596) derives the degrees of freedom. The scatter of seeds is pooled
    over the cells. It contains the chance on these images, which is therefore subtracted from the
    images' part, of which as in Hillis' equations no less than nothing is left.

    The variance is never 0, however equal the results are: see ``_least_variance``.
    """
    images = cells[0].shape[1]
    by_image = np.zeros(images)
    scatter = of_seeds = chance = 0.0
    freedom = 0
    for weight, right in zip(weights, cells, strict=True):
        seeds, by_seed = len(right), right.mean(axis=1)
        by_image += weight * right.mean(axis=0)
        of_seeds += weight**2 / seeds
        if seeds > 1:
            left = right - by_seed[:, None] - right.mean(axis=0) + right.mean()
            # equal seeds have no scatter at all, not even one by rounding
            scatter += float((by_seed - by_seed[0]).var(ddof=1)) * (seeds - 1)
            chance += float((left**2).sum()) / max(1, images - 1) / images
            freedom += seeds - 1
    value = float(by_image.mean())
    of_images = float(by_image.var(ddof=1)) / images if images > 1 else 0.25
    of_images = max(of_images, _least_variance(weights, value, images))
    if scatter == 0:
        return value, of_images, float(max(1, images - 1))
    chance *= of_seeds / freedom
    of_seeds *= scatter / freedom
    # never below the images' own variance: seeds that agree by luck prove nothing
    variance = max(of_images, of_seeds + max(0.0, of_images - chance))
    return value, variance, freedom * (variance / of_seeds) ** 2


def _least_variance(weights: Sequence[float], value: float, images: int) -> float:
    """The variance of a weighted sum that is ``value`` on each of N images.

    Two images are added on which each cell is right by the toss of a coin, so that no agreement is
    taken for certainty: for the difference of two cells this is what Agresti and Min (2005,
    Statistics in Medicine 24:729) add, half an image to each kind of pair.
    """
    total = sum(weights)
    squares = images * value**2 + (sum(weight**2 for weight in weights) + total**2) / 2
    return (squares - (images * value + total) ** 2 / (images + 2)) / (images + 2) ** 2


def quantile(freedom: float, level: float = LEVEL) -> float:
    """Half the width of an interval in standard errors, by Student's t."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def _normal(level: float) -> float:
    return float(stats.norm.ppf((1 + level) / 2))
