"""The table of cells, and the columns and fields that other tables of cells share with it."""

from collections.abc import Callable, Iterable, Sequence
from operator import methodcaller
from typing import Any

import pandas as pd

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE
from semigrid.grid.analysis.numbers import (
    NONE,
    show_interval,
    show_number,
    show_points,
    show_scores,
)
from semigrid.grid.analysis.result_set import FEW_IMAGES, METRICS, CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.experiment import show_percent
from semigrid.grid.status.show import show_seconds
from semigrid.grid.tables.table import Column, Table, frame_of, frame_records
from semigrid.trainers.weights import Weights

Fields = dict[str, Callable[[CellResult], Any]]
CELL_FIELDS: Fields = {
    "cell": lambda row: row.cell.name,
    "dataset": lambda row: row.cell.dataset,
    "model": lambda row: row.cell.model,
    "labels": lambda row: show_percent(row.cell.labels),
    "labeled_images": lambda row: row.labeled_images,
    "unlabeled": lambda row: show_percent(row.cell.unlabeled) if row.cell.unlabeled else None,
    "pool_images": lambda row: row.pool_images,
    "state": lambda row: row.state,
}


def cells_frame(results: ResultSet, rows: Sequence[CellResult]) -> pd.DataFrame:
    """Cells as numbers, always in the same columns.

    Accuracies are in per cent, ``ce`` in nats, ``ece`` from 0 to 1. ``to_best`` is the difference
    of Acc@1 from the dataset's best cell in points, ``to_best_p`` its p-value, corrected among all
    pairs of the dataset.
    """
    fields: Fields = dict(CELL_FIELDS)
    for metric in METRICS:
        fields[metric] = methodcaller("mean", metric)
        fields[f"{metric}_std"] = methodcaller("std", metric)
    fields |= {
        "acc1_low": lambda row: 100 * row.interval.low if row.interval else None,
        "acc1_high": lambda row: 100 * row.interval.high if row.interval else None,
        "macro": lambda row: row.mean("macro"),
        "ece": lambda row: row.mean("ece"),
        "standing": results.standing,
        "to_best": lambda row: _to_best(results, row),
        "to_best_p": lambda row: pair.p if (pair := results.standings.to_best(row.cell)) else None,
        "paper_acc1": lambda row: row.paper,
        "seeds": lambda row: len(row.test),
        "trials": lambda row: row.trials,
        "stopped": lambda row: row.stopped,
        "collapsed": lambda row: row.collapsed,
        "training_seconds": lambda row: round(row.seconds, 1),
    }
    return frame_of(rows, fields)


def _to_best(results: ResultSet, row: CellResult) -> float | None:
    pair = results.standings.to_best(row.cell)
    return None if pair is None else -100 * pair.comparison.difference


def cell_records(results: ResultSet) -> list[dict[str, Any]]:
    """The rows with everything that is known of them, for JSON."""
    records = frame_records(cells_frame(results, results.rows))
    for record, row in zip(records, results.rows, strict=True):
        record["test_per_seed"] = row.test
        record["failure"] = row.failure
        record["weights"] = None if row.weights is None else row.weights.model_dump()
        record["device_seconds"] = row.device_seconds
    return records


def cell_columns(rows: Sequence[CellResult]) -> list[Column[CellResult]]:
    """What names a cell; the dataset only where there are several."""
    columns: list[Column[CellResult]] = [
        Column("model", lambda row: row.cell.model, is_name=True),
        Column("labels", lambda row: show_percent(row.cell.labels)),
        Column("images", lambda row: str(row.labeled_images)),
        Column(
            "unlabelled",
            lambda row: show_percent(row.cell.unlabeled) if row.cell.unlabeled else NONE,
        ),
    ]
    if len({row.cell.dataset for row in rows}) > 1:
        columns.insert(0, Column("dataset", lambda row: row.cell.dataset, is_name=True))
    return columns


def acc1_column(results: ResultSet) -> Column[CellResult]:
    return Column(
        "Acc@1",
        lambda row: show_scores(row.scores("acc1")),
        may_break=True,
        is_bold=lambda row: results.standings.is_marked(row.cell),
    )


def interval_column(is_spare: bool = False) -> Column[CellResult]:
    return Column(f"{LEVEL:.0%}", lambda row: show_interval(row.interval), is_spare=is_spare)


def other_score_columns(with_paper: bool) -> list[Column[CellResult]]:
    """What stands beside Acc@1: the paper's value to its own digits, Acc@5, cross-entropy."""
    columns: list[Column[CellResult]] = [
        Column("Acc@5", lambda row: show_scores(row.scores("acc5")), may_break=True),
        Column("CE", lambda row: show_scores(row.scores("ce"), digits=3), may_break=True),
    ]
    if with_paper:
        columns.insert(0, Column("paper", lambda row: show_number(row.paper, 3)))
    return columns


def cells_table(results: ResultSet, headlines: Sequence[str] = ()) -> Table[CellResult]:
    """A line for each cell with its scores; in a terminal of 80 columns, those that fit.

    Args:
        headlines: notes that stand first below the table.
    """
    rows = results.rows
    columns = [*cell_columns(rows), acc1_column(results)]
    has_predictions = any(row.has_predictions for row in rows)
    if has_predictions:
        columns.append(interval_column(is_spare=True))
    columns += other_score_columns(bool(results.paper_tasks))
    if any(_macro_differs(row) for row in rows):
        columns.append(
            Column(
                "macro", lambda row: show_scores(row.scores("macro")), may_break=True, is_spare=True
            )
        )
    if has_predictions:
        columns += [
            Column("vs best", lambda row: _show_standing(results, row), is_spare=True),
            Column("ECE", lambda row: show_number(row.mean("ece"), 3), is_spare=True),
        ]
    columns += [
        Column("trials", _show_trials),
        Column("time", lambda row: show_seconds(row.seconds)),
    ]
    return Table(
        title="Results",
        columns=columns,
        rows=rows,
        frame=cells_frame(results, rows),
        notes=[*headlines, *results.standings.notes(), *weights_notes(rows)],
        problems=results.problems,
        records=cell_records(results),
        is_dim=is_unfinished,
    )


def _macro_differs(row: CellResult) -> bool:
    """A test set with as many images of each class has one mean, not two."""
    return any(abs(seed.scores.macro - seed.scores.acc1) > 1e-11 for seed in row.predictions)


def _show_standing(results: ResultSet, row: CellResult) -> str:
    standing, pair = results.standing(row), results.standings.to_best(row.cell)
    if standing == "below" and pair is not None:
        return show_points(-pair.comparison.difference)
    if standing == NOT_SEPARABLE and pair is None:
        return "highest"
    return standing or NONE


def _show_trials(row: CellResult) -> str:
    notes = [f"{row.stopped} stopped"] if row.stopped else []
    notes += [f"{row.collapsed} collapsed"] if row.collapsed else []
    return str(row.trials) + (f" ({', '.join(notes)})" if notes else "")


def is_unfinished(row: CellResult) -> bool:
    return row.state != "finished"


def few_notes(images: Iterable[int]) -> list[str]:
    """What a ``*`` beside numbers of test images means, if there is one."""
    if any(number < FEW_IMAGES for number in images):
        return [f"* fewer than {FEW_IMAGES} test images: take these scores as a hint"]
    return []


def weights_notes(rows: Sequence[CellResult]) -> list[str]:
    """What the weights that models start from allow."""
    by_weights: dict[Weights, dict[str, None]] = {}
    for row in rows:
        if row.weights is not None:
            by_weights.setdefault(row.weights, {})[row.cell.model] = None
    return [
        f"weights of {', '.join(models)}: {weights.describe()}"
        for weights, models in by_weights.items()
    ]
