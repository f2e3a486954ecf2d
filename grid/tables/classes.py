"""Tables of the best cells' classes: how each fares, and which are confused."""

from collections.abc import Sequence

from semigrid.grid.analysis.classes import ClassResult, Confusion, class_results, confusions
from semigrid.grid.analysis.numbers import show_count, show_interval, show_scores
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
        Column("dataset", lambda each: each.row.cell.dataset, _dataset_header(best), is_name=True),
        Column("cell", lambda each: each.row.cell.name),
        Column("class", lambda each: each.name, "class", is_name=True),
        Column("train_images", lambda each: each.train_images, "train images", show_count),
        Column("train_share", lambda each: each.train_share, "of training", _share),
        Column("test_images", lambda each: each.test_images, "test images", _show_images),
        Column("acc1", lambda each: mean(each.acc1)),
        Column("acc1_std", lambda each: std(each.acc1)),
        Column(None, lambda each: each.acc1, "Acc@1", show_scores, may_break=True),
        Column(None, lambda each: each.interval, f"{LEVEL:.0%}", show_interval),
        Column("acc1_low", lambda each: 100 * each.interval.low),
        Column("acc1_high", lambda each: 100 * each.interval.high),
        Column("seeds", lambda each: len(each.acc1)),
    ]
    return Table(
        "Classes, the weakest first",
        columns,
        classes,
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
        Column("dataset", lambda each: each.row.cell.dataset, _dataset_header(best), is_name=True),
        Column("cell", lambda each: each.row.cell.name),
        Column("true", lambda each: each.true, "true class", is_name=True),
        Column("predicted", lambda each: each.predicted, "taken for", is_name=True),
        Column("images", lambda e: e.images, "images", lambda n: f"{n:.1f}".removesuffix(".0")),
        Column("share", lambda each: each.share, "of the class", _share),
    ]
    return Table(
        "Confusions",
        columns,
        [each for of_cell in by_cell for each in of_cell[:MOST_CONFUSED]],
        data=frame_of(columns, (each for of_cell in by_cell for each in of_cell)),
        notes=["images: a mean over seeds", _cells_note(best)],
        problems=results.problems,
    )


def _dataset_header(rows: Sequence[CellResult]) -> str | None:
    return "dataset" if len(rows) > 1 else None


def _share(share: float) -> str:
    return f"{share:.1%}"


def _show_images(images: int) -> str:
    return show_count(images) + ("*" if images < FEW_IMAGES else "")


def _cells_note(rows: Sequence[CellResult]) -> str:
    return f"of {', '.join(row.cell.name for row in rows)}; --only CELL shows another"
