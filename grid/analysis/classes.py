"""Where a cell goes wrong: accuracy by class beside training share, and what is taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from semigrid.data.splits import images_at
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import FEW_IMAGES, Row, mean, std
from semigrid.grid.analysis.statistics import LEVEL, Interval, accuracy_interval
from semigrid.grid.tables.cells import few_notes, show_interval, show_scores, typed
from semigrid.grid.tables.sheet import Column, Sheet
from semigrid.trainers.scores import class_accuracies

RARE = 0.01  # of the training set: the paper's claim about rare classes is about those below
MOST_CONFUSED = 20


@dataclass(frozen=True)
class ClassLine:
    """A cell on one class: how much of it there was to learn from, and how it does."""

    row: Row
    name: str
    train_images: int
    train_share: float
    test_images: int
    acc1: list[float]  # in per cent, one a seed
    interval: Interval


def class_lines(known: Known, row: Row) -> list[ClassLine]:
    """A cell's classes that have test images, the weakest first."""
    test_set = known.measured.test_sets[row.cell.dataset]
    right = known.measured.right(row.cell)
    assert right is not None
    counts = known.plan.experiment.datasets[row.cell.dataset].manifest.counts["train"]
    train = [images_at(row.cell.labels, counts.get(name, 0)) for name in test_set.classes]
    by_seed = np.stack(
        [class_accuracies(test_set.labels, seed, len(test_set.classes)) for seed in right]
    )
    found = []
    for number, name in enumerate(test_set.classes):
        of_class = test_set.labels == number
        if of_class.any():
            found.append(
                ClassLine(
                    row=row,
                    name=name,
                    train_images=train[number],
                    train_share=train[number] / sum(train),
                    test_images=int(of_class.sum()),
                    acc1=[float(100 * acc1) for acc1 in by_seed[:, number]],
                    interval=accuracy_interval(right[:, of_class]),
                )
            )
    return sorted(found, key=lambda line: (sum(line.acc1), line.train_share))


def classes_sheet(known: Known) -> Sheet[ClassLine]:
    """Accuracy by class beside training share, the weakest first, of each dataset's best cell."""
    rows = known.best_rows()
    lines = [line for row in rows for line in class_lines(known, row)]
    columns: list[Column[ClassLine]] = [
        Column("class", lambda line: line.name, is_name=True),
        Column("train images", lambda line: f"{line.train_images:,}"),
        Column("of training", lambda line: f"{line.train_share:.1%}"),
        Column(
            "test images",
            lambda line: f"{line.test_images:,}" + ("*" if line.test_images < FEW_IMAGES else ""),
        ),
        Column("Acc@1", lambda line: show_scores(line.acc1), may_break=True),
        Column(f"{LEVEL:.0%}", lambda line: show_interval(line.interval)),
    ]
    if len(rows) > 1:
        columns.insert(0, Column("dataset", lambda line: line.row.cell.dataset, is_name=True))
    records = [
        {
            "dataset": line.row.cell.dataset,
            "cell": line.row.cell.name,
            "class": line.name,
            "train_images": line.train_images,
            "train_share": line.train_share,
            "test_images": line.test_images,
            "acc1": mean(line.acc1),
            "acc1_std": std(line.acc1),
            "acc1_low": 100 * line.interval.low,
            "acc1_high": 100 * line.interval.high,
            "seeds": len(line.acc1),
        }
        for line in lines
    ]
    return Sheet(
        title="Classes, the weakest first",
        columns=columns,
        rows=lines,
        frame=typed(pd.DataFrame.from_records(records)),
        notes=[*few_notes(line.test_images for line in lines), _of_cells(rows)],
        problems=known.results.problems,
    )


def _of_cells(rows: Sequence[Row]) -> str:
    return f"of {', '.join(row.cell.name for row in rows)}; --only CELL shows another"


@dataclass(frozen=True)
class Confusion:
    """Images of one class that a cell took for another, a mean over seeds."""

    row: Row
    true: str
    predicted: str
    images: float
    share: float  # of the true class's test images


def confusion_matrix(known: Known, row: Row) -> np.ndarray:
    """Test images by true and predicted class, (K, K), a mean over seeds."""
    test_set = known.measured.test_sets[row.cell.dataset]
    classes = len(test_set.classes)
    seeds = known.measured.seeds(row.cell)
    counted = [
        np.bincount(test_set.labels * classes + seed.chosen, minlength=classes**2) for seed in seeds
    ]
    return np.asarray(np.mean(counted, axis=0).reshape(classes, classes))


def confusions(known: Known, row: Row) -> list[Confusion]:
    """All that a cell mixes up, what happens most often first."""
    names = known.measured.test_sets[row.cell.dataset].classes
    matrix = confusion_matrix(known, row)
    images = matrix.sum(axis=1)
    found = [
        Confusion(row, names[i], names[j], float(matrix[i, j]), float(matrix[i, j] / images[i]))
        for i, j in zip(*np.nonzero(matrix), strict=True)
        if i != j
    ]
    return sorted(found, key=lambda each: (-each.images, -each.share))


def confusions_sheet(known: Known) -> Sheet[Confusion]:
    """Which classes are taken for which, by each dataset's best cell; people see the first 20."""
    rows = known.best_rows()
    by_row = [confusions(known, row) for row in rows]
    columns: list[Column[Confusion]] = [
        Column("true class", lambda each: each.true, is_name=True),
        Column("taken for", lambda each: each.predicted, is_name=True),
        Column("images", lambda each: f"{each.images:.1f}".removesuffix(".0")),
        Column("of the class", lambda each: f"{each.share:.1%}"),
    ]
    if len(rows) > 1:
        columns.insert(0, Column("dataset", lambda each: each.row.cell.dataset, is_name=True))
    records = [
        {
            "dataset": each.row.cell.dataset,
            "cell": each.row.cell.name,
            "true": each.true,
            "predicted": each.predicted,
            "images": each.images,
            "share": each.share,
        }
        for of in by_row
        for each in of
    ]
    names = ["dataset", "cell", "true", "predicted", "images", "share"]
    return Sheet(
        title="Confusions",
        columns=columns,
        rows=[each for of in by_row for each in of[:MOST_CONFUSED]],
        frame=pd.DataFrame.from_records(records, columns=names),
        notes=["images: a mean over seeds", _of_cells(rows)],
        problems=known.results.problems,
    )
