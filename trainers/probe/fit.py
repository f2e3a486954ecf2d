"""The probe: logistic regression on frozen features, its C chosen on the labels it learns from.

The values of C, and a tenth of the train labels to choose among them, are those of DINOv2's
evaluation (arXiv 2304.07193, appendix B.3). No label of val is used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semigrid.trainers.evaluation.scores import cross_entropies, image_weights
from semigrid.trainers.probe.logistic import Fits, Path, Turned

CS = 10 ** np.linspace(-6, 5, 45)
# C where no image can be held out, since each is of the only group of its class.
UNCHOSEN = 1.0
# A class with fewer groups than this has no tenth: then all have folds.
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

    @property
    def measures(self) -> dict[str, float]:
        return {"c": self.c}

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits (N, K) of features (N, D)."""
        return np.asarray(features.astype(np.float64) @ self.weight + self.bias)


def held_out(labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Which images (N,) each of F fits does not learn from, (F, N): whole groups, in their order.

    One fit without the first tenth of each class's groups; five, without a fifth each, where a
    class has under ten. A group counts for the class of its first image. Groups without which no
    image of some class would be left to learn from are not held out.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    counts = np.bincount(labels[first], minlength=labels.max() + 1)  # groups of each class
    place = np.empty(len(first), int)  # of a group among those of its class
    for label in np.flatnonzero(counts):
        of_class = np.flatnonzero(labels[first] == label)
        place[of_class[np.argsort(first[of_class])]] = np.arange(len(of_class))
    if counts[np.unique(labels)].min() >= TENTHS:
        held = (place < counts[labels[first]] // TENTHS)[None]
    else:
        held = np.arange(FOLDS)[:, None] == place % FOLDS
    for fold in held:
        lost = np.setdiff1d(labels, labels[~fold[group]])
        fold[group[np.isin(labels, lost)]] = False
    held = held[:, group]
    return np.asarray(held[held.any(axis=1)])


def fit_probe(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    class_weights: np.ndarray,
    may_go_on: Callable[[], None] = lambda: None,
) -> Probe:
    """Fits features (N, D) to class indices (N,), in an order that decides what is held out.

    Chosen is the C with the highest accuracy on the images held out, and of equal ones that with
    the lowest cross-entropy; then all images are fitted. A class without images is never predicted.

    Args:
        groups: numbers (N,), the same for images that must not stand on both sides of a choice.
        class_weights: what each class counts in a score, (K,), see ``image_weights``.
        may_go_on: is called after each C, some seconds apart for many images; ends the fit by an
            exception.
    """
    turned, held = Turned.of(features), held_out(labels, groups)
    c, start = UNCHOSEN, Fits.zero(turned, 1, classes)
    if len(held):
        path = Path(turned, labels, classes, ~held)
        c, start = _choose(path, held, labels, class_weights, may_go_on)
    path = Path(turned, labels, classes, np.ones((1, len(labels)), bool))
    weights = path.at(c, start).weights[:, 0]
    weight = turned.turn @ weights[:-1] / turned.scale
    bias = weights[-1] - turned.mean @ weight
    return Probe(weight, np.where(path.absent[0], _NEVER, bias), c)


# a bias that no logit reaches, and from which training can go on
_NEVER = -1e4


def fit_bytes(images: int, columns: int, classes: int, fits: int) -> int:
    """Most memory of ``fit_probe`` where so many ``fits`` choose C."""
    span = min(images, columns)
    numbers = 2.2 * images * columns + 2 * span**2 + 20 * (images + span) * fits * classes
    return int(8 * numbers)


def _choose(
    path: Path,
    held: np.ndarray,
    labels: np.ndarray,
    class_weights: np.ndarray,
    may_go_on: Callable[[], None],
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
        may_go_on()
    assert best is not None
    return best[1], best[2].mean()
