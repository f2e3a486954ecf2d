"""Tables of the best cells' classes: how each fares, and which are confused."""

from collections.abc import Sequence

from semigrid.grid.analysis.classes import ClassResult, Confusion, class_results, confusions
from semigrid.grid.analysis.numbers import show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, mean, std
from semigrid.grid.tables.cells import few_notes
from semigrid.grid.tables.table import Column, Table, frame_of

MOST_CONFUSED = 20  # confusions that people see of each cell


def classes_table(results: ResultSet) -> Table[ClassResult]:
    """Accuracy by class beside training share, the weakest first, for each dataset's best cell.

    Raises ``InputError`` where no cell has predictions.
    """
    best = results.require_best()
    classes = [each for row in best for each in class_results(results, row)]
    columns: list[Column[ClassResult]] = [
        Column("class", lambda each: each.name, is_name=True),
        Column("train images", lambda each: f"{each.train_images:,}"),
        Column("of training", lambda each: f"{each.train_share:.1%}"),
        Column(
            "test images",
            lambda each: f"{each.test_images:,}" + ("*" if each.test_images < FEW_IMAGES else ""),
        ),
        Column("Acc@1", lambda each: show_scores(each.acc1), may_break=True),
        Column(f"{LEVEL:.0%}", lambda each: show_interval(each.interval)),
    ]
    if len(best) > 1:
        columns.insert(0, Column("dataset", lambda each: each.row.cell.dataset, is_name=True))
    return Table(
        title="Classes, the weakest first",
        columns=columns,
        rows=classes,
        frame=frame_of(
            classes,
            {
                "dataset": lambda each: each.row.cell.dataset,
                "cell": lambda each: each.row.cell.name,
                "class": lambda each: each.name,
                "train_images": lambda each: each.train_images,
                "train_share": lambda each: each.train_share,
                "test_images": lambda each: each.test_images,
                "acc1": lambda each: mean(each.acc1),
                "acc1_std": lambda each: std(each.acc1),
                "acc1_low": lambda each: 100 * each.interval.low,
                "acc1_high": lambda each: 100 * each.interval.high,
                "seeds": lambda each: len(each.acc1),
            },
        ),
        notes=[*few_notes(each.test_images for each in classes), _cells_note(best)],
        problems=results.problems,
    )


def confusions_table(results: ResultSet) -> Table[Confusion]:
    """Which classes each dataset's best cell takes for which, the most frequent first.

    Raises ``InputError`` where no cell has predictions.
    """
    best = results.require_best()
    by_cell = [confusions(results, row) for row in best]
    columns: list[Column[Confusion]] = [
        Column("true class", lambda each: each.true, is_name=True),
        Column("taken for", lambda each: each.predicted, is_name=True),
        Column("images", lambda each: f"{each.images:.1f}".removesuffix(".0")),
        Column("of the class", lambda each: f"{each.share:.1%}"),
    ]
    if len(best) > 1:
        columns.insert(0, Column("dataset", lambda each: each.row.cell.dataset, is_name=True))
    return Table(
        title="Confusions",
        columns=columns,
        rows=[each for of_cell in by_cell for each in of_cell[:MOST_CONFUSED]],
        frame=frame_of(
            (each for of_cell in by_cell for each in of_cell),
            {
                "dataset": lambda each: each.row.cell.dataset,
                "cell": lambda each: each.row.cell.name,
                "true": lambda each: each.true,
                "predicted": lambda each: each.predicted,
                "images": lambda each: each.images,
                "share": lambda each: each.share,
            },
        ),
        notes=["images: a mean over seeds", _cells_note(best)],
        problems=results.problems,
    )


def _cells_note(rows: Sequence[CellResult]) -> str:
    return f"of {', '.join(row.cell.name for row in rows)}; --only CELL shows another"
