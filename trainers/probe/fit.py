"""The probe: logistic regression on frozen features, its C chosen on the labels it learns from.

The values of C, and a tenth of the train labels to choose among them, are those of DINOv2's
evaluation (arXiv 2304.07193, appendix B.3). No label of val is used.
"""

from dataclasses import dataclass

import numpy as np

from semigrid.trainers.evaluation.scores import cross_entropies, image_weights
from semigrid.trainers.probe.logistic import Fits, Path, Turned

CS = 10 ** np.linspace(-6, 5, 45)
# C where no image can be held out, since each is the only one of its class.
UNCHOSEN = 1.0
# A class with fewer images than this has no tenth: then all have folds.
TENTHS, FOLDS = 10, 5


@dataclass(frozen=True)
class Probe:
    """A linear head for features as they are stored: logits are x @ ``weight`` (D, K) + ``bias``.

    ``c`` was chosen; it is in the unit of features that are centred and have a mean squared length
    of 1.
    """

    weight: np.ndarray
    bias: np.ndarray
    c: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, K) of features (N, D)."""
        return np.asarray(features.astype(np.float64) @ self.weight + self.bias)


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which images (N,) each of F fits does not learn from, (F, N), by their order in a class.

    One fit without the first tenth of each class; five, without a fifth each, where a class has
    under ten images. The only image of a class is always learnt from.
    """
    counts = np.bincount(labels)
    order = np.empty(len(labels), int)  # of an image in its class
    for label in np.flatnonzero(counts):
        order[labels == label] = np.arange(counts[label])
    of_class = counts[labels]
    if of_class.min() >= TENTHS:
        return np.asarray(order < of_class // TENTHS)[None]
    folds = np.arange(FOLDS)[:, None] == order % FOLDS
    folds &= of_class > 1
    return np.asarray(folds[folds.any(axis=1)])


def fit_probe(
    features: np.ndarray, labels: np.ndarray, classes: int, class_weights: np.ndarray
) -> Probe:
    """Fits features (N, D) to class indices (N,), in an order that decides what is held out.

    Chosen is the C with the highest accuracy on the images held out, and of equal ones that with
    the lowest cross-entropy; then all images are fitted. A class without images is never predicted.

    Args:
        class_weights: what each class counts in a score, (K,), see ``image_weights``.
    """
    turned, held = Turned.of(features), held_out(labels)
    c, start = UNCHOSEN, Fits.zero(turned, 1, classes)
    if len(held):
        c, start = _choose(Path(turned, labels, classes, ~held), held, labels, class_weights)
    path = Path(turned, labels, classes, np.ones((1, len(labels)), bool))
    weights = path.at(c, start).weights[:, 0]
    weight = turned.turn @ weights[:-1] / turned.scale
    bias = weights[-1] - turned.mean @ weight
    return Probe(weight, np.where(path.absent[0], _NEVER, bias), c)


# a bias that no logit reaches, and float32 holds
_NEVER = -1e9


def _choose(
    path: Path, held: np.ndarray, labels: np.ndarray, class_weights: np.ndarray
) -> tuple[float, Fits]:
    """The C that is best on the images held out, and where a fit of all images may start."""
    fold, row = np.nonzero(held)
    truth = labels[row]
    weights = image_weights(truth, class_weights)
    best: tuple[tuple[float, float], float, Fits] | None = None
    for c, fits in zip(CS, path.along(CS.tolist()), strict=True):
        logits = np.where(path.absent[fold], -np.inf, fits.logits[row, fold])
        logits -= logits.max(axis=1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        right = round(float((p.argmax(axis=1) == truth) @ weights), 12)
        quality = right, -float(cross_entropies(truth, p) @ weights)
        if best is None or quality > best[0]:
            best = quality, float(c), fits
    assert best is not None
    return best[1], best[2].mean()
