"""Scores of a probe's learning curve, with intervals over draws and test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semigrid.grid.analysis.statistics import Interval, Weighted, accuracy_interval
from semigrid.trainers.evaluation.scores import Metric
from semigrid.trainers.probe.curve import Point

Learner = Literal["logistic", "neighbors"]
LEARNERS: dict[Learner, str] = {
    "logistic": "logistic regression",
    "neighbors": "20 nearest neighbours",
}
METRICS: tuple[Metric, ...] = ("balanced", "natural")


@dataclass(frozen=True)
class Score:
    """A mean accuracy over draws, and its interval over draws and test images: shares.

    All labels are one draw, so there the interval is over test images, and over what chose C.
    """

    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class CurveRow:
    """The scores at a number of labels, by learner and metric, and the Cs that draws chose."""

    images: int
    scores: dict[tuple[Learner, Metric], Score]
    cs: tuple[float, ...]


def curve_rows(
    points: Sequence[Point], labels: np.ndarray, class_shares: np.ndarray
) -> list[CurveRow]:
    """The rows of a curve, for test images with these classes (T,) and natural shares (K,)."""
    weights = {"balanced": np.ones(len(class_shares)), "natural": class_shares}
    rows = []
    for point in points:
        right = {"logistic": point.logistic, "neighbors": point.neighbors}
        scores = {}
        for learner in LEARNERS:
            for metric in METRICS:
                cell = Weighted(right[learner].astype(float), labels, weights[metric])
                scores[learner, metric] = Score(cell.mean(), accuracy_interval(cell))
        rows.append(CurveRow(point.images, scores, tuple(point.cs.tolist())))
    return rows
