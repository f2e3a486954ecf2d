"""How many labels a model would need to reach another. Pure: arrays in, numbers and text out.

The baseline's accuracy is taken to be a straight line on the scales of ``log(labels)`` and
``logit(accuracy)``: the error falls as a power of the number of labels. Beyond the fractions that
were trained the line is an extrapolation, and is marked as one. Labels are those of train, from
which a model learns: val may be the same for all (docs/results.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from semigrid.grid.analysis.statistics import Weighted, combine, quantile

REACH = 16.0  # how far estimates may go beyond the numbers of labels tried, as a factor


@dataclass(frozen=True)
class Needed:
    """How many labels the baseline needs for the accuracy of a cell.

    Labels are those of train, and ``with_val`` those of train and val. ``labels`` is the best
    estimate, and the interval from ``low`` to ``high`` (95 %) holds all numbers at which the data
    cannot tell the two apart (Fieller 1954). None stands for a number more than ``REACH`` times
    beyond those tried; all three are None where it is not certain that the baseline's accuracy
    rises with labels. An ``extrapolated`` estimate lies outside the numbers of labels that the line
    was fitted to.
    """

    labels: float | None = None
    low: float | None = None
    high: float | None = None
    extrapolated: bool = True

    @property
    def range_text(self) -> str | None:
        """``180 to 420``, ``more than 180``, ``up to 420``; None where both ends are open."""
        if self.low is None:
            return None if self.high is None else f"up to {self.high:,.0f}"
        if self.high is None:
            return f"more than {self.low:,.0f}"
        return f"{self.low:,.0f} to {self.high:,.0f}"

    def with_val(self, val: Callable[[float], float]) -> "Needed":
        """The same in labels of train and val; ``val`` has those of val for a number of train."""

        def total(train: float | None) -> float | None:
            return None if train is None else train + val(train)

        return replace(self, labels=total(self.labels), low=total(self.low), high=total(self.high))

    def saved(self, labels: int) -> float | None:
        """How many labels a cell with ``labels`` saves, negative if it takes more.

        None where it is not certain that it saves any, or takes more.
        """
        if self.labels is None:
            return None
        above = self.low is not None and self.low > labels
        below = self.high is not None and self.high < labels
        return self.labels - labels if above or below else None

    def text(self, baseline: str, cell: str, labels: int, may_save: bool = True) -> str:
        """What the baseline would need to match a cell that has ``labels``, in a sentence.

        Args:
            may_save: whether labels may be said to be saved.
        """
        start = f"To match {cell} with {labels:,} labels, {baseline} would need"
        if self.range_text is None:
            return (
                f"There is no telling how many labels {baseline} would need to match {cell}: its "
                "accuracy does not clearly rise with more labels."
            )
        if self.labels is None:
            return f"{start} {self.range_text} (95% interval)."
        beyond = ", extrapolated" if self.extrapolated else ""
        need = f"{start} about {self.labels:,.0f} (95% interval {self.range_text}{beyond})"
        saved = self.saved(labels)
        if not may_save or saved is None or saved <= 0 or self.low is None:
            return f"{need}."
        return f"{need}: about {saved:,.0f} saved, at least {self.low - labels:,.0f}."


def labels_needed(target: Weighted, baseline: Mapping[int, Weighted]) -> Needed | None:
    """The number of train labels at which a baseline reaches ``target``.

    Returns None for a baseline with fewer than two numbers of labels.

    Args:
        target: the score of the cell to be reached.
        baseline: the same on the same images, by number of train labels, from which it learns.
    """
    if len(baseline) < 2:
        return None
    numbers = sorted(baseline)
    cells = [baseline[number] for number in numbers]
    x = np.log(np.array(numbers, float))
    y, slopes = np.array([_logit(right) for right in cells]).T
    goal, goal_slope = _logit(target)
    # the inverse of each variance by chance on the images
    weights = 1 / (slopes / target.images)
    middle = float(np.average(x, weights=weights))
    spread = float((weights * (x - middle) ** 2).sum())
    # weighted least squares: each cell's part in the line's slope and in its height at the middle
    in_slope = weights * (x - middle) / spread
    in_middle = weights / weights.sum()
    slope, height = float(in_slope @ y), float(in_middle @ y)
    _, variance, freedom = combine(list(in_slope * slopes), cells)
    if slope <= quantile(freedom) * variance**0.5:
        return Needed()
    best = middle + (goal - height) / slope

    def beyond(at: float) -> float:
        """How much further apart the cell and the line are there than chance explains."""
        line = in_middle + in_slope * (at - middle)
        parts = [goal_slope, *(-line * slopes)]
        _, variance, freedom = combine(parts, [target, *cells])
        apart = abs(goal - float(line @ y))
        return float(apart - quantile(freedom) * variance**0.5)

    def end(at: float) -> float | None:
        return float(np.exp(float(brentq(beyond, best, at)))) if beyond(at) > 0 else None

    lowest, highest = x[0] - np.log(REACH), x[-1] + np.log(REACH)
    labels = float(np.exp(best)) if lowest <= best <= highest else None
    return Needed(
        labels=labels,
        low=end(lowest) if best > lowest else None,
        high=end(highest) if best < highest else None,
        extrapolated=labels is None or not numbers[0] <= labels <= numbers[-1],
    )


def _logit(right: Weighted) -> tuple[float, float]:
    """The log odds of a cell's accuracy, and their derivative with respect to it.

    Half an image is added to the right and to the wrong ones: the log odds of a cell that is
    always right would be infinite.
    """
    images = right.images
    share = (float(right.mean()) * images + 0.5) / (images + 1)
    return float(np.log(share / (1 - share))), 1 / (share * (1 - share))
