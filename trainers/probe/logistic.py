"""L2 logistic regression for a path of C and several subsets of the same images at once.

For one subset, with features x, classes y and C, it is what scikit-learn's ``LogisticRegression``
minimises: Σ_i −log softmax(W x_i + b)_{y_i} + ‖W‖² / 2C. The minimum does not change when the
features are turned, so they are turned to as many orthogonal columns as they span (Hastie et al.,
The Elements of Statistical Learning, section 18.3.5): at most one for each image. There the Hessian
is nearly diagonal for features of similar length, and a few steps of conjugate gradients,
preconditioned by its diagonal, solve each of Newton's equations; otherwise it takes many. Along the
path each C starts where the last two lead, and the subsets, such as the folds of a cross-validation
and all images, share every matrix product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Newton's steps for one C at most; conjugate gradients in each at most, which end when the square
# of what is left has fallen by the factor.
MAX_STEPS, MAX_GRADIENTS, ENOUGH = 1000, 200, 0.1
# Directions are left out whose images lie closer together than rounding can tell.
_FLAT = 1e-12


@dataclass(frozen=True)
class Turned:
    """Features of n images in orthogonal columns, centred, with a mean squared length of 1.

    ``rows`` (n, r + 1) are (features − ``mean``) / ``scale`` @ ``turn``, and a column of ones. The
    columns of ``turn`` (d, r) are orthonormal, those of ``rows`` orthogonal.
    """

    rows: np.ndarray
    turn: np.ndarray
    mean: np.ndarray
    scale: float

    @cached_property
    def squares(self) -> np.ndarray:
        """Those of ``rows``."""
        return np.asarray(self.rows**2)

    @staticmethod
    def of(features: np.ndarray) -> "Turned":
        """Turns features (n, d). Centring changes no prediction, and scaling only C's unit."""
        x = features.astype(np.float64)
        mean = x.mean(axis=0)
        x -= mean
        scale = float(np.sqrt(np.vdot(x, x) / len(x))) or 1.0
        x /= scale
        if len(x) <= x.shape[1]:
            spread, left = _spanned(x @ x.T)
            turn = x.T @ (left / np.sqrt(spread))
            rows = left * np.sqrt(spread)
        else:
            spread, turn = _spanned(x.T @ x)
            rows = x @ turn
        del x
        rows = np.hstack([rows, np.ones((len(rows), 1))])
        return Turned(rows, turn, mean, scale)


def _spanned(products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of a matrix of inner products that are not 0, and their vectors."""
    values, vectors = np.linalg.eigh(products)
    kept = values > _FLAT * max(values[-1], 1e-300)
    return values[kept], vectors[:, kept]


@dataclass(frozen=True)
class Fits:
    """Weights (r + 1, G, K) for G subsets, the bias last, and the logits (n, G, K) of all images.

    Those of a class that a subset lacks are 0: the subset knows nothing of it.
    """

    weights: np.ndarray
    logits: np.ndarray

    @staticmethod
    def zero(turned: Turned, subsets: int, classes: int) -> "Fits":
        images, columns = turned.rows.shape
        return Fits(np.zeros((columns, subsets, classes)), np.zeros((images, subsets, classes)))

    def mean(self) -> "Fits":
        """The mean of all subsets, as one: where the fit of their union may start."""
        return Fits(
            self.weights.mean(axis=1, keepdims=True), self.logits.mean(axis=1, keepdims=True)
        )


class Path:
    """Fits of images ``turned`` with ``labels`` (n,), class indices below ``classes``.

    ``subsets`` (G, n) says which images each of G fits learns from.
    """

    def __init__(self, turned: Turned, labels: np.ndarray, classes: int, subsets: np.ndarray):
        self._turned = turned
        self._start = Fits.zero(turned, len(subsets), classes)
        self._used = subsets.T.astype(float)[:, :, None]  # (n, G, 1)
        self._targets = np.eye(classes)[labels][:, None, :] * self._used
        self.absent = self._targets.sum(axis=0) == 0  # (G, K)
        # two classes have one row of weights in scikit-learn, and here two that differ by it: the
        # sum of their squares is half of that row's
        self._unit = np.where((~self.absent).sum(axis=1) == 2, 2.0, 1.0)[:, None]

    def along(self, cs: Sequence[float], tolerance: float = 3e-3) -> Iterator[Fits]:
        """The fits for each C in turn, best an ascending one."""
        fits = self._start
        before: Fits | None = None
        for c in cs:
            start = fits
            if before is not None:  # the weights are a smooth function of log C
                start = Fits(2 * fits.weights - before.weights, 2 * fits.logits - before.logits)
            before, fits = fits, self.at(c, start, tolerance)
            yield fits

    def at(self, c: float, start: Fits, tolerance: float = 1e-8) -> Fits:
        """The fits for one C, until a step moves no logit of an image in use by ``tolerance``."""
        weights, logits = start.weights.copy(), start.logits.copy()
        active = np.arange(weights.shape[1])
        for _ in range(MAX_STEPS):
            problem = _Problem(self, c, active, weights[:, active], logits[:, active])
            step, moved = problem.step()
            weights[:, active] += step
            logits[:, active] += moved
            change = np.abs(moved * self._used[:, active]).max(axis=(0, 2))
            active = active[change > tolerance]
            if not len(active):
                break
        return Fits(weights, logits)


class _Problem:
    """Newton's equations of some subsets, by number, where they stand."""

    def __init__(
        self, path: Path, c: float, active: np.ndarray, weights: np.ndarray, logits: np.ndarray
    ):
        self._rows, self._used = path._turned.rows, path._used[:, active]
        self._targets, self._absent = path._targets[:, active], path.absent[active]
        self._weights, self._logits = weights, logits
        self._penalty = np.repeat(path._unit[None, active] / c, len(weights), axis=0)
        self._penalty[-1] = 0  # of the bias
        self._p = self._probabilities(logits) * self._used
        self._gradient = self._back(self._p - self._targets) + self._penalty * weights
        # of the Hessian; the biases have no penalty, and may have no curvature left
        diagonal = _product(path._turned.squares.T, self._p * (1 - self._p)) + self._penalty
        self._inverse = np.where(self._absent, 0, 1 / np.maximum(diagonal, 1e-12))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        shifted = np.where(self._absent, -np.inf, logits)
        shifted -= shifted.max(axis=2, keepdims=True)
        np.exp(shifted, out=shifted)
        return np.asarray(shifted / shifted.sum(axis=2, keepdims=True))

    def _forth(self, weights: np.ndarray) -> np.ndarray:
        """Logits (n, G, K) of weights (r + 1, G, K)."""
        return _product(self._rows, weights)

    def _back(self, values: np.ndarray) -> np.ndarray:
        return _product(self._rows.T, values)

    def _aimed(self, residual: np.ndarray) -> np.ndarray:
        """What to add to the weights by the Hessian's diagonal.

        Its sum over classes is 0, as that of every solution: no logit tells anything of that sum,
        which only the penalty holds, so that it would be found last.
        """
        aimed = residual * self._inverse
        excess = aimed.sum(axis=2, keepdims=True) / self._inverse.sum(axis=2, keepdims=True)
        return np.asarray(aimed - self._inverse * excess)

    def _curved(self, moved: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The Hessian times a step, whose logits are ``moved``."""
        pulled = self._p * moved
        pulled -= self._p * pulled.sum(axis=2, keepdims=True)
        return np.asarray(self._back(pulled) + self._penalty * step)

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """A step that lessens the loss, and how it moves the logits."""
        # conjugate gradients (Nocedal and Wright, Numerical Optimization, algorithm 7.1)
        step, moved = np.zeros_like(self._gradient), np.zeros_like(self._logits)
        residual = -self._gradient
        direction = self._aimed(residual)
        left = first = _dot(residual, direction)
        for _ in range(MAX_GRADIENTS):
            ahead = self._forth(direction)
            curved = self._curved(ahead, direction)
            going = left > ENOUGH * first
            along = np.where(going, left, 0) / np.maximum(_dot(direction, curved), 1e-300)
            step += along[:, None] * direction
            moved += along[:, None] * ahead
            residual -= along[:, None] * curved
            aimed = self._aimed(residual)
            before, left = left, _dot(residual, aimed)
            if not (left > ENOUGH * first).any():
                break
            direction = aimed + (left / np.maximum(before, 1e-300))[:, None] * direction
        size = self._line_search(step, moved)[:, None]
        return size * step, size * moved

    def _line_search(self, step: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """The largest of 1, 1/2, 1/4, … of the step that lessens each loss enough, (G,)."""
        size, slope = np.ones(len(self._absent)), _dot(self._gradient, step)
        start = self._loss(self._weights, self._logits)
        for _ in range(50):
            scaled = size[:, None]
            loss = self._loss(self._weights + scaled * step, self._logits + scaled * moved)
            # what rounding alone can add is no reason to stop
            bad = loss > start + 1e-4 * size * slope + 1e-12 * np.abs(start)
            if not bad.any():
                break
            size = np.where(bad, size / 2, size)
        return size

    def _loss(self, weights: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """The loss of each subset, (G,)."""
        shown = np.where(self._absent, -np.inf, logits)
        top = shown.max(axis=2)
        sums = top + np.log(np.exp(shown - top[:, :, None]).sum(axis=2))
        fit = (sums * self._used[:, :, 0]).sum(axis=0) - (logits * self._targets).sum(axis=(0, 2))
        return np.asarray(fit + (self._penalty * weights**2).sum(axis=(0, 2)) / 2)


def _product(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Matrix (a, b) @ values (b, G, K)."""
    return np.asarray((matrix @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:]))


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Inner products (G,) of (r + 1, G, K) each."""
    return np.asarray(np.einsum("rgk,rgk->g", first, second))
