"""Where a cell goes wrong: accuracy by class beside training share, and confused classes."""

from dataclasses import dataclass

import numpy as np

from semigrid.data.splits import images_at
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Interval, accuracy_interval, plain

RARE = 0.01  # share of the training images below which the paper's claim calls a class rare


@dataclass(frozen=True)
class ClassResult:
    """A cell's result on one class: ``right``, (S, n), of the class's n test images."""

    row: CellResult
    name: str
    train_images: int
    train_share: float
    right: np.ndarray

    @property
    def test_images(self) -> int:
        return int(self.right.shape[1])

    @property
    def acc1(self) -> list[float]:
        """In per cent, one a seed."""
        return [float(100 * share) for share in self.right.mean(axis=1)]

    @property
    def interval(self) -> Interval:
        return accuracy_interval(plain(self.right))


def class_results(results: ResultSet, row: CellResult) -> list[ClassResult]:
    """A cell's results on the K classes that have test images, the weakest first."""
    test_set = results.test_sets[row.cell.dataset]
    counts = results.plan.experiment.datasets[row.cell.dataset].manifest.counts["train"]
    train = [images_at(row.cell.labels, counts.get(name, 0)) for name in test_set.classes]
    classes = [
        ClassResult(row, name, images, images / sum(train), row.right[:, test_set.labels == number])
        for number, (name, images) in enumerate(zip(test_set.classes, train, strict=True))
        if (test_set.labels == number).any()
    ]
    return sorted(classes, key=lambda each: (sum(each.acc1), each.train_share))


@dataclass(frozen=True)
class Confusion:
    """Images of one class that a cell took for another.

    ``images`` is a mean over seeds, ``share`` that of the true class's test images.
    """

    row: CellResult
    true: str
    predicted: str
    images: float
    share: float


def confusion_matrix(results: ResultSet, row: CellResult) -> np.ndarray:
    """Test images by true and predicted class, (K, K), a mean over seeds."""
    test_set = results.test_sets[row.cell.dataset]
    classes = len(test_set.classes)
    counted = [
        np.bincount(test_set.labels * classes + seed.chosen, minlength=classes**2)
        for seed in row.predictions
    ]
    return np.asarray(np.mean(counted, axis=0).reshape(classes, classes))


def confusions(results: ResultSet, row: CellResult) -> list[Confusion]:
    """All pairs of classes that a cell confuses, the most frequent first."""
    names = results.test_sets[row.cell.dataset].classes
    matrix = confusion_matrix(results, row)
    images = matrix.sum(axis=1)
    pairs = [
        Confusion(row, names[i], names[j], float(matrix[i, j]), float(matrix[i, j] / images[i]))
        for i, j in zip(*np.nonzero(matrix), strict=True)
        if i != j
    ]
    return sorted(pairs, key=lambda each: (-each.images, -each.share))
