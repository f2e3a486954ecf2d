"""The confidence from which answers are right often enough, from a model's answers on val. Pure.

The choice follows selection with guaranteed risk (Geifman & El-Yaniv 2017, arXiv 1705.08500): the
threshold is the confidence of one of a few images of val whose ranks are fixed in advance, and the
bounds at all of them hold at once. So, with the stated confidence, the share of right answers among
those given is at least the requested one, on images of the same kind as val. The paper's binary
search is replaced by a fixed grid of ranks, tested side by side: where the search looks next
depends on what it saw, which the sum over its steps does not account for.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta

# Probability with which a promise holds.
CONFIDENCE = 0.95
# Largest number of thresholds to try, and images of val for each: one more widens all bounds.
MOST_RANKS, IMAGES_PER_RANK = 20, 50


@dataclass(frozen=True)
class Calibration:
    """A threshold and its worth on val.

    ``accuracy`` is the requested share of right answers, None where the threshold was given.
    ``threshold`` is None where no threshold can promise it. Of ``images`` on val, ``answered``
    reach the threshold and ``right`` of those are right; without a threshold, these are the most
    confident images with the best promise. ``promised`` is the share of right answers that holds
    with 95 % confidence.
    """

    accuracy: float | None
    threshold: float | None
    images: int
    answered: int
    right: int
    promised: float

    def describe(self) -> str:
        """The meaning of the calibration, in one line."""
        share = f"{self.right / self.answered:.2%}" if self.answered else "—"
        on_val = (
            f"{self.answered:,} of {self.images:,} images of val, of which {share} are right "
            f"(at least {self.promised:.2%} with {CONFIDENCE:.0%} confidence)"
        )
        if self.accuracy is None:
            return f"threshold {self.threshold:g}, as given: it answers {on_val}"
        wanted = f"{100 * self.accuracy:.4g}%"
        if self.threshold is not None:
            return f"threshold {self.threshold:.4f} promises {wanted} right: it answers {on_val}"
        needed = images_needed(self.accuracy)
        if self.images < needed:
            why = f"val has {self.images:,} images, and even if all are right it takes {needed:,}"
        else:
            why = f"the best that val allows is to answer {on_val}"
        return (
            f"no threshold promises {wanted} right, so abstain is true for every image: "
            f"{why}; ask for a lower --accuracy, or choose a --threshold"
        )


def calibrate(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> Calibration:
    """The smallest threshold that promises the accuracy.

    Args:
        confidence: probability of each answer on val, (N,).
        right: whether each answer is right, (N,) bool.
        accuracy: requested share of right answers, below 1.

    Raises ``ValueError`` without images.
    """
    if not len(confidence):
        raise ValueError("val has no images to calibrate on")
    falling = -np.sort(-confidence)
    ranks = tried_ranks(len(confidence), accuracy)
    tried = [
        at_threshold(confidence, right, float(falling[rank - 1]), accuracy, len(ranks))
        for rank in ranks
    ]
    holding = [each for each in tried if each.promised >= accuracy]
    if holding:
        return holding[-1]  # ranks rise, so this has the smallest threshold
    return replace(max(tried, key=lambda each: each.promised), threshold=None)


def at_threshold(
    confidence: np.ndarray,
    right: np.ndarray,
    threshold: float,
    accuracy: float | None = None,
    ranks: int = 1,
) -> Calibration:
    """The worth on val of a threshold that was chosen without val, or of one that is tried."""
    chosen = confidence >= threshold
    answered, hits = int(chosen.sum()), int(right[chosen].sum())
    promised = lower_bound(hits, answered, ranks)
    return Calibration(accuracy, threshold, len(confidence), answered, hits, promised)


def tried_ranks(images: int, accuracy: float) -> list[int]:
    """Numbers of most confident images of val to try as those that get an answer, fewest first.

    They depend only on the number of images and the accuracy. With the smallest, the accuracy can
    just be promised if all answers are right.
    """
    count = min(MOST_RANKS, max(1, images // IMAGES_PER_RANK))
    fewest = min(images, images_needed(accuracy, count))
    # from the end, since a single rank is to be that of all images
    return sorted({round(rank) for rank in np.linspace(images, fewest, count)})


def images_needed(accuracy: float, ranks: int = 1) -> int:
    """How many right answers in a row promise the accuracy where this many ranks are tried."""
    return max(1, math.ceil(math.log((1 - CONFIDENCE) / ranks) / math.log(accuracy)))


def lower_bound(right: int, answered: int, ranks: int = 1) -> float:
    """Clopper and Pearson's lower bound on a share; this many such bounds hold at once."""
    if not right:
        return 0.0
    return float(beta.ppf((1 - CONFIDENCE) / ranks, right, answered - right + 1))
