"""Intervals and comparisons of accuracies. Pure: arrays in, numbers out.

Accuracies are shares from 0 to 1. A cell has been trained on S seeds and evaluated on the same N
test images each time: ``right``, (S, N), tells whether seed s put image i into its class. With the
classes and their weights it is a ``Weighted``; ``plain`` makes one of equal weights. Intervals and
tests refer to another sample of test images and, with two seeds or more, to another training too.
One seed does not show how much trainings scatter: there they refer to the trained model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from scipy import stats

from semigrid.grid.analysis.flips import flips_p
from semigrid.trainers.evaluation.scores import image_weights

LEVEL = 0.95
VAGUE = 0.5  # the width above which an interval of a difference around 0 says nothing
_UNUSUAL = 0.9  # how sure it must be that cells scatter more than others do
# images of all classes together that are added to each class, when its own variance is estimated
_BORROWED = 2


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``, at 95 % unless another level is named."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One cell's accuracy minus another's on the same images.

    ``p`` is two-sided and for this comparison alone: ``holm`` corrects it among others. It rests on
    so many ``images`` and, in the cell with the fewest, ``seeds``.
    """

    difference: float
    interval: Interval
    p: float
    images: int
    seeds: int

    @property
    def is_vague(self) -> bool:
        """Whether the interval says nothing, as with a few test images: too wide to be a help."""
        low, high = self.interval.low, self.interval.high
        return high - low > (VAGUE if low < 0 < high else 1)


@dataclass(frozen=True)
class Weighted:
    """``right``, (S, N), whose mean is a score: a balanced or a natural accuracy.

    Args:
        labels: class index of each image, (N,).
        class_weights: what each class counts, (K,), in any unit; see ``image_weights``.
    """

    right: np.ndarray
    labels: np.ndarray
    class_weights: np.ndarray

    def __len__(self) -> int:
        """The number of seeds."""
        return len(self.right)

    def mean(self) -> float:
        """The score, a mean over seeds."""
        return round(float(self.right.mean(axis=0) @ self.weights), 12)

    @cached_property
    def weights(self) -> np.ndarray:
        """What each image counts, (N,), 1 in all."""
        return image_weights(self.labels, self.class_weights)

    @cached_property
    def images(self) -> float:
        """As many images of equal weight vary as much by chance (Kish 1965)."""
        return float(1 / (self.weights**2).sum())

    @cached_property
    def strata(self) -> np.ndarray:
        """The class of each image, (N,), counted from 0; one for all where weights are equal.

        There the exact tests are those of the literature, and the intervals hold the truth as often
        as they promise, although classes differ in their accuracy (tests/bench/coverage.py, "20
        classes of 50"): what lies between classes makes them no narrower.
        """
        if self.is_plain:
            return np.zeros(len(self.labels), int)
        return np.unique(self.labels, return_inverse=True)[1]

    @cached_property
    def is_plain(self) -> bool:
        """Whether all images count the same."""
        return bool(np.ptp(self.weights) <= 1e-9 * self.weights[0])

    @cached_property
    def chance_of_seeds(self) -> float:
        """S−1 times the variance of a seed's score by chance on given images."""
        counts = np.bincount(self.strata)
        of_class = np.bincount(self.strata, self.weights)
        inside = (self.strata == np.arange(len(counts))[:, None]).astype(float)
        means = self.right @ inside.T / counts
        by_class = means[:, self.strata] - means.mean(axis=0)[self.strata]
        left = self.right - self.right.mean(axis=0) - by_class
        squares = np.bincount(self.strata, (left**2).sum(axis=0))
        borrowed = _BORROWED if len(counts) > 1 else 0
        pooled = squares.sum() / max(1, (counts - 1).sum())
        variances = (squares + borrowed * pooled) / np.maximum(1, counts - 1 + borrowed)
        return float((of_class**2 * variances / counts).sum())


def plain(right: np.ndarray) -> Weighted:
    """``right``, (S, N), whose mean is the share of all images: they are of equal weight."""
    return Weighted(right, np.zeros(right.shape[1], int), np.ones(1))


def mean(scores: Sequence[float]) -> float | None:
    """The mean over seeds; None without any."""
    return sum(scores) / len(scores) if scores else None


def std(scores: Sequence[float]) -> float | None:
    """The sample standard deviation over seeds; None with fewer than two."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def accuracy_interval(cell: Weighted, level: float = LEVEL) -> Interval:
    """Wilson's interval of a cell's accuracy.

    With several seeds, or images of unequal weight, it is that of the number of images that would
    vary as much by themselves as images and seeds do together, see ``combine``. That is at most
    S·N: in an array whose rows and columns could be exchanged, two results of one seed, or of one
    image, are never negatively correlated (Aldous 1981), so no S·N results tell more than as many
    independent ones.

    Where that is more than the images, it is estimated with two images more, one that all seeds
    get right and one that none does: a few mistakes of single seeds tell next to nothing of how
    alike the seeds are, nor of how far they scatter.
    """
    seeds, share, images = len(cell), cell.mean(), cell.images
    if share in (0.0, 1.0) or (seeds == 1 and cell.is_plain):
        return _wilson(share, images, _normal(level))
    parts = _Parts.of([1.0], [cell])
    variance = parts.variance(parts.of_images)
    # sums of squares, of as many images by themselves and as they vary together
    alone, together = images * share * (1 - share), images**2 * variance
    middle = (images * share + 1) / (images + 2)
    added = images * (share - middle) ** 2 + (1 - middle) ** 2 + middle**2
    freedom = parts.freedom(variance + added / images**2)
    if together < alone:
        alone, together = alone + added, together + added
    alike = min(images * alone / together, cell.right.size)
    return _wilson(share, alike, quantile(freedom, level))


def mean_interval(values: np.ndarray, score: Weighted, level: float = LEVEL) -> Interval:
    """Student's interval of the mean of any values of images, (N,), weighted as a score is."""
    freedom = max(1, len(values) - 1)
    middle = float(values @ score.weights)
    half = quantile(freedom, level) * _variance_of_images(values, score) ** 0.5
    return Interval(middle - half, middle + half)


def compare(
    first: Weighted, second: Weighted, level: float = LEVEL, others: Sequence[Weighted] = ()
) -> Comparison:
    """Whether two cells differ, image by image, from (S, N) and (S', N) of the same N images.

    With one seed each: an exact test, see ``flips``, and the interval of Agresti and Min (2005),
    which adds half an image to each kind of pair. With more: a t-test of the difference with the
    variance from ``combine``; a cell with one seed is taken to scatter as the other does.

    Args:
        others: further cells whose seeds tell how far trainings usually scatter, see ``_as_usual``.
    """
    both = [first, second]
    if all(len(cell) == 1 for cell in (*both, *others)):
        return _compare_pairs(first, second, level)
    free = _tested(*combine([1.0, -1.0], both, others), both, level)
    interval = Interval(max(-1.0, free.interval.low), min(1.0, free.interval.high))
    return replace(free, interval=interval)


def _compare_pairs(first: Weighted, second: Weighted, level: float) -> Comparison:
    """``compare`` for one seed each."""
    pairs = first.right[0].astype(float) - second.right[0]
    images, total = first.images, first.images + 2
    difference = round(float(pairs @ first.weights), 12)
    # with equal weights exactly what Agresti and Min have: the variance, two images added
    own = _variance_of_images(pairs, first, ddof=0)
    variance = (images**2 * own + 2 * images * difference**2 / total + 1) / total**2
    middle, half = difference * images / total, _normal(level) * variance**0.5
    interval = Interval(max(-1.0, middle - half), min(1.0, middle + half))
    return Comparison(difference, interval, _exact_p(pairs, first), len(pairs), seeds=1)


def _exact_p(pairs: np.ndarray, cell: Weighted) -> float:
    """The two-sided p-value of the sum of weighted pairs, each −1, 0 or 1, (N,); see ``flips``."""
    apart = np.bincount(cell.labels, pairs != 0)  # by class, in which all images weigh the same
    of_class = np.zeros(len(apart))
    of_class[cell.labels] = cell.weights
    weights, group = np.unique(of_class[apart > 0], return_inverse=True)
    counts = np.bincount(group, apart[apart > 0]).astype(int)
    return flips_p(float(pairs @ cell.weights), weights, counts)


def contrast(
    weights: Sequence[float], cells: Sequence[Weighted], level: float = LEVEL
) -> Comparison:
    """A weighted sum of cells' accuracies compared with zero by a t-test; see ``combine``."""
    return _tested(*combine(weights, cells), cells, level)


def _tested(
    value: float, variance: float, freedom: float, cells: Sequence[Weighted], level: float
) -> Comparison:
    """A t-test of whether a value that was made of these cells is 0."""
    half = float(quantile(freedom, level) * variance**0.5)
    p = float(2 * stats.t.sf(abs(value) / variance**0.5, freedom))
    images, seeds = len(cells[0].labels), min(len(cell) for cell in cells)
    return Comparison(value, Interval(value - half, value + half), p, images, seeds)


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


def combine(
    weights: Sequence[float], cells: Sequence[Weighted], others: Sequence[Weighted] = ()
) -> tuple[float, float, float]:
    """A weighted sum of cells' accuracies, its variance, and the degrees of freedom of that.

    Each cell is a ``right``, (S, N), with its own number of seeds and the same N images, and all
    are of one score. Seeds and images are both random, as readers and cases are in the studies for
    which Hillis (2007, Statistics in Medicine 26:596) derives the degrees of freedom. The scatter
    of seeds is pooled over the cells. It contains the chance on these images, which is therefore
    subtracted from the images' part, of which as in Hillis' equations no less than nothing is left.

    The variance is never 0, however equal the results are: see ``_least_variance``.

    Args:
        others: as of ``compare``.
    """
    parts = _Parts.of(weights, cells)
    if others:
        parts = _as_usual(parts, weights, cells, others)
    least = _least_variance(weights, parts.value, parts.images)
    variance = parts.variance(max(parts.of_images, least))
    return parts.value, variance, parts.freedom(variance)


@dataclass(frozen=True)
class _Parts:
    """What the variance of a weighted sum of cells' accuracies is made of.

    Attributes:
        value: the sum.
        images: how many there are, as if of equal weight.
        of_images: its variance by the choice of images, with the chance of these seeds in it.
        of_seeds: its variance by the choice of seeds, with the chance on these images in it.
        chance: that chance.
        spare: the degrees of freedom of ``of_seeds``: the seeds less one for each cell.
    """

    value: float
    images: float
    of_images: float
    of_seeds: float
    chance: float
    spare: float

    @classmethod
    def of(cls, weights: Sequence[float], cells: Sequence[Weighted]) -> Self:
        score = cells[0]
        by_image = np.zeros(len(score.labels))
        scatter = squares = chance = 0.0
        spare = 0
        for weight, cell in zip(weights, cells, strict=True):
            seeds, by_seed = len(cell), cell.right @ score.weights
            by_image += weight * cell.right.mean(axis=0)
            squares += weight**2 / seeds
            if seeds > 1:
                # equal seeds have no scatter at all, not even one by rounding
                differences = np.round(by_seed - by_seed[0], 12)
                scatter += float(differences.var(ddof=1)) * (seeds - 1)
                chance += cell.chance_of_seeds
                spare += seeds - 1
        value = round(float(by_image @ score.weights), 12)
        of_images = _variance_of_images(by_image, score) if len(by_image) > 1 else 0.25
        per_seed = squares / max(1, spare)
        return cls(value, score.images, of_images, per_seed * scatter, per_seed * chance, spare)

    def variance(self, of_images: float) -> float:
        """Of the sum, where the images' part is this."""
        if self.of_seeds == 0:
            return of_images
        # never below the images' own variance: seeds that agree by luck prove nothing
        return max(of_images, self.of_seeds + max(0.0, of_images - self.chance))

    def freedom(self, variance: float) -> float:
        """The degrees of freedom of a variance of the sum."""
        if self.of_seeds == 0:
            return max(1.0, self.images - 1)
        return self.spare * (variance / self.of_seeds) ** 2


def _as_usual(
    parts: _Parts, weights: Sequence[float], cells: Sequence[Weighted], others: Sequence[Weighted]
) -> _Parts:
    """The parts with the usual scatter of seeds: the median of all cells.

    Three seeds of two cells tell next to nothing at a high level, those of 30 cells do. A median,
    so that one cell that scatters widely says nothing of the others. The cells keep their own
    scatter where that is greater, and its few degrees of freedom where an F-test says that it is.
    """
    scatters, spare = [], 0.0
    for cell in (*cells, *others):
        own = len(cell) - 1
        if own > 0:
            by_seed = cell.right @ cell.weights
            scatter = float(np.round(by_seed - by_seed[0], 12).var(ddof=1))
            scatters.append(scatter * own / float(stats.chi2.median(own)))
            spare += own / 2  # a median tells about half of what the mean would
    squares = sum(w**2 / len(cell) for w, cell in zip(weights, cells, strict=True))
    usual = squares * float(np.median(scatters))
    if parts.spare and parts.of_seeds > usual * stats.f.ppf(_UNUSUAL, parts.spare, spare):
        return parts
    return replace(parts, of_seeds=max(parts.of_seeds, usual), spare=spare)


def _variance_of_images(values: np.ndarray, score: Weighted, ddof: int = 1) -> float:
    """The variance, by the choice of images, of a score of values (N,): Σ w_c² s_c² / n_c.

    A class with one image has no variance of its own, and one with few may have none by luck: each
    borrows ``_BORROWED`` images that are as the score's mean image is.
    """
    counts = np.bincount(score.strata)
    of_class = np.bincount(score.strata, score.weights)
    borrowed = _BORROWED if len(counts) > 1 else 0
    total = counts + borrowed
    middle = np.bincount(score.strata, values) + borrowed * float(values @ score.weights)
    squares = np.bincount(score.strata, values**2) + borrowed * float(values**2 @ score.weights)
    variances = (squares - middle**2 / total) / np.maximum(1, total - ddof)
    return float((of_class**2 * np.maximum(0.0, variances) / counts).sum())


def _least_variance(weights: Sequence[float], value: float, images: float) -> float:
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
