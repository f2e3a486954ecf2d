"""What a model card says of predictions on test: scores, classes, slices. Markdown lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semigrid.grid.analysis.results import FEW_IMAGES
from semigrid.grid.analysis.slices import NO_VALUE, tally
from semigrid.grid.analysis.statistics import Interval, quantile, share_interval
from semigrid.grid.tables.markdown import escape, table
from semigrid.trainers.predictions import Predictions
from semigrid.trainers.scores import scores

FEW = f"\\* fewer than {FEW_IMAGES} test images: a hint, no more"


@dataclass(frozen=True)
class ClassScore:
    """One class: its name, training images, test images, and how many of those were right.

    ``taken_for`` is the class that its mistakes were put into most often, with how many.
    """

    name: str
    training: int
    images: int
    right: int
    taken_for: tuple[str, int] | None

    @property
    def accuracy(self) -> float:
        return self.right / self.images


def class_scores(
    predictions: Predictions, classes: Sequence[str], training: dict[str, int]
) -> list[ClassScore]:
    """Of all classes: those with the lowest accuracy first, those without test images last."""
    chosen = predictions.probabilities.argmax(axis=1)
    found = []
    for index, name in enumerate(classes):
        of_class = predictions.labels == index
        counts = np.bincount(chosen[of_class], minlength=len(classes))
        right, counts[index] = int(counts[index]), 0
        most = int(counts.argmax())
        taken_for = (classes[most], int(counts[most])) if counts[most] else None
        found.append(ClassScore(name, training.get(name, 0), int(of_class.sum()), right, taken_for))
    return sorted(found, key=lambda s: (not s.images, s.accuracy if s.images else 0.0))


def score_table(predictions: Predictions) -> list[str]:
    """Acc@1, Acc@5, macro accuracy, cross-entropy and calibration error with 95 % intervals."""
    found = scores(predictions.labels, predictions.probabilities)
    images, classes = predictions.probabilities.shape
    rows = [["Acc@1", _percent(found.acc1, 2), _interval(found.acc1, images)]]
    if classes > 5:
        rows.append(["Acc@5", _percent(found.acc5, 2), _interval(found.acc5, images)])
    rows += [
        ["macro accuracy (mean over classes)", _percent(found.macro, 2), "—"],
        ["cross-entropy (nats)", f"{found.ce:.3f}", _loss_interval(predictions)],
        ["expected calibration error (15 bins)", _percent(found.ece, 2), "—"],
    ]
    return table(["score", "value", "95 % interval"], rows, "lrr")


def class_table(found: Sequence[ClassScore]) -> list[str]:
    rows = [
        [
            escape(each.name),
            f"{each.training:,}",
            _few(each.images),
            _percent(each.accuracy) if each.images else "—",
            _interval(each.accuracy, each.images) if each.images else "—",
            "—" if each.taken_for is None else f"{escape(each.taken_for[0])} ({each.taken_for[1]})",
        ]
        for each in found
    ]
    head = ["class", "training images", "test images", "accuracy", "95 % interval", "mistaken for"]
    lines = table(head, rows, "lrrrrl")
    return [*lines, "", FEW] if any(each.images < FEW_IMAGES for each in found) else lines


def slice_tables(predictions: Predictions) -> list[str]:
    """One table for each slice, the values with most test images first."""
    lines: list[str] = []
    for name in predictions.slices:
        tallies = tally(predictions.slices[name], predictions.right)
        values = sorted(tallies, key=lambda v: (v == NO_VALUE, -tallies[v].images, v))
        rows = [
            [
                escape(value),
                _few(tallies[value].images),
                _percent(tallies[value].acc1 / 100),
                _interval(tallies[value].acc1 / 100, tallies[value].images),
            ]
            for value in values
        ]
        lines += table([escape(name), "test images", "Acc@1", "95 % interval"], rows, "lrrr")
        if any(each.images < FEW_IMAGES for each in tallies.values()):
            lines += ["", FEW]
        lines.append("")
    return lines[:-1]


def summary(predictions: Predictions) -> str:
    """``**97.0 %** of 200 test images (95 % interval 93.6–98.6)``."""
    share, images = float(predictions.right.mean()), len(predictions.labels)
    within = _interval(share, images)
    return f"**{_percent(share)}** of {images:,} test images (95 % interval {within})"


def confidence_gap(predictions: Predictions) -> float:
    """Mean confidence less accuracy: above zero, the model is surer than it is right."""
    return float(predictions.probabilities.max(axis=1).mean() - predictions.right.mean())


def _loss_interval(predictions: Predictions) -> str:
    """Student's interval of the mean over test images."""
    labels, probabilities = predictions.labels, predictions.probabilities
    images = len(labels)
    if images < 2:
        return "—"
    own = probabilities[np.arange(images), labels]
    losses = -np.log(np.maximum(own, np.finfo(np.float64).eps))
    half = quantile(images - 1) * float(losses.std(ddof=1)) / images**0.5
    middle = float(losses.mean())
    return f"{max(0.0, middle - half):.3f}–{middle + half:.3f}"


def _interval(share: float, images: int) -> str:
    within: Interval = share_interval(round(share * images), images)
    return f"{100 * within.low:.1f}–{100 * within.high:.1f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _few(images: int) -> str:
    return f"{images:,}" + ("\\*" if 0 < images < FEW_IMAGES else "")
