"""Scores of a classifier, as pure functions of arrays.

Every score is a weighted mean over images: an image of class c weighs w_c / n_c, with n_c images of
its class. A *balanced* score has the same w_c for every class, a *natural* one the class's share
among all labelled images. Classes without images are left out, and the others' w_c raised to a sum
of 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Metric = Literal["balanced", "natural"]
# how the scores of a metric are called: acc1, acc1_natural
SUFFIXES: dict[Metric, str] = {"balanced": "", "natural": "_natural"}
ECE_BINS = 15
_LEAST = np.finfo(np.float64).eps  # no cross-entropy is infinite


@dataclass(frozen=True)
class Scores:
    """Scores of one model on one test set; shares from 0 to 1, ``ce`` in nats.

    Those without a suffix are balanced. ``ece`` is the expected calibration error: the gap between
    confidence and accuracy, averaged over images in 15 bins of equal width (Guo et al. 2017, arXiv
    1706.04599, equation 3), of which each counts what it does in a balanced score.
    """

    acc1: float
    acc5: float
    ce: float
    acc1_natural: float
    acc5_natural: float
    ce_natural: float
    ece: float


def scores(
    labels: np.ndarray, probabilities: np.ndarray, class_shares: np.ndarray, tau: float = 0.0
) -> Scores:
    """Scores of probabilities (N, K) for true classes (N,). Raises ``ValueError`` if N is 0.

    Args:
        class_shares: the classes' shares (K,) among all labelled images, for the natural scores.
        tau: the model's logit adjustment, for the natural scores: see ``natural_view``.
    """
    if not len(labels):
        raise ValueError("there are no test images to score")
    right = probabilities.argmax(axis=1) == labels
    among_five = in_top_five(labels, probabilities)
    losses = cross_entropies(labels, probabilities)
    seen = natural_view(probabilities, class_shares, tau)
    classes = probabilities.shape[1]
    balanced = image_weights(labels, np.ones(classes))
    natural = image_weights(labels, class_shares)
    return Scores(
        acc1=_share(right, balanced),
        acc5=_share(among_five, balanced),
        ce=float(losses @ balanced),
        acc1_natural=_share(seen.argmax(axis=1) == labels, natural),
        acc5_natural=_share(in_top_five(labels, seen), natural),
        ce_natural=float(cross_entropies(labels, seen) @ natural),
        ece=calibration_error(right, probabilities.max(axis=1), balanced),
    )


def natural_view(probabilities: np.ndarray, class_shares: np.ndarray, tau: float) -> np.ndarray:
    """Probabilities (N, K) where classes have these shares: p_c·π_c^τ, raised to a sum of 1.

    A model that was trained with a logit adjustment says p as if classes were equally frequent; its
    logits z become z + τ·log π (Menon et al. 2021, 2007.07314). Without one, τ = 0, it has learnt
    the shares of its labels: its probabilities are the natural ones as they are.
    """
    if not tau:
        return probabilities
    weighted = probabilities * (class_shares / class_shares.sum()) ** tau
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))


def image_weights(labels: np.ndarray, class_weights: np.ndarray) -> np.ndarray:
    """What each image counts in a score, (N,), 1 in all.

    Args:
        labels: class index of each image, (N,).
        class_weights: what each class counts, (K,), in any unit.
    """
    counts = np.bincount(labels, minlength=len(class_weights))
    weights = np.where(counts > 0, class_weights, 0.0)
    of_class = weights / weights.sum() / np.maximum(counts, 1)
    return np.asarray(of_class[labels])


def _share(hits: np.ndarray, weights: np.ndarray) -> float:
    # equal scores must be equal, in whatever order they were added up
    return round(float(hits @ weights), 12)


def in_top_five(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether an image's class is among its five most probable ones, (N,)."""
    # of equal probabilities the class with the higher index counts, as in scikit-learn
    five = np.argsort(probabilities, axis=1, kind="stable")[:, -5:]
    return np.asarray((five == labels[:, None]).any(axis=1))


def cross_entropies(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Minus the log of the probability of each image's class, (N,), in nats."""
    own = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(own, _LEAST, 1.0)))


def calibration_bins(right: np.ndarray, confidence: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Images, right ones and confidence in bins of equal width, (15, 3), summed by their weights.

    All arguments are (N,); ``weights`` are as ``image_weights`` returns.
    """
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    summed = (weights, weights * right, weights * confidence)
    return np.stack([np.bincount(bins, each, ECE_BINS) for each in summed], axis=1)


def calibration_error(right: np.ndarray, confidence: np.ndarray, weights: np.ndarray) -> float:
    """The expected calibration error, see ``Scores``; arguments as of ``calibration_bins``."""
    images, hits, believed = calibration_bins(right, confidence, weights).T
    return float(np.abs(hits - believed).sum() / images.sum())
