"""Scores of a classifier, as pure functions of arrays."""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import log_loss, top_k_accuracy_score

ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one test set; shares from 0 to 1, ``ce`` in nats.

    ``macro`` is the mean accuracy over the classes that have test images. ``ece`` is the
    expected calibration error: the gap between confidence and accuracy, averaged over images in
    15 bins of equal width (Guo et al. 2017, arXiv 1706.04599, equation 3).
    """

    acc1: float
    acc5: float
    ce: float
    macro: float
    ece: float


def scores(labels: np.ndarray, probabilities: np.ndarray) -> Scores:
    """Scores of probabilities (N, K) for true classes (N,). Raises ``ValueError`` if N is 0."""
    if not len(labels):
        raise ValueError("there are no test images to score")
    classes = np.arange(probabilities.shape[1])
    chosen = probabilities.argmax(axis=1)
    top5 = 1.0
    if len(classes) > 5:
        top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    # sklearn refuses a single class
    ce = float(log_loss(labels, probabilities, labels=classes)) if len(classes) > 1 else 0.0
    return Scores(
        acc1=float((chosen == labels).mean()),
        acc5=float(top5),
        ce=ce,
        macro=float(np.nanmean(class_accuracies(labels, chosen == labels, len(classes)))),
        ece=calibration_error(chosen == labels, probabilities.max(axis=1)),
    )


def class_accuracies(labels: np.ndarray, right: np.ndarray, classes: int) -> np.ndarray:
    """Accuracy of each class, (K,); NaN for a class without images. Both arguments are (N,)."""
    images = np.bincount(labels, minlength=classes).astype(float)
    images[images == 0] = np.nan
    return np.asarray(np.bincount(labels, right, classes) / images)


def calibration_bins(right: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Images, right ones and summed confidence in bins of equal width, (15, 3).

    Both arguments are (N,).
    """
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    sums = [np.bincount(bins, weights, ECE_BINS) for weights in (None, right, confidence)]
    return np.stack(sums, axis=1).astype(float)


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> float:
    """The expected calibration error, see ``Scores``; both arguments are (N,)."""
    _, hits, believed = calibration_bins(right, confidence).T
    return float(np.abs(hits - believed).sum() / len(right))
