"""The table of cells: how its rows are shown, and as numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE
from semigrid.grid.analysis.results import FEW_IMAGES, METRICS, Results, Row, mean, standing, std
from semigrid.grid.analysis.statistics import LEVEL, Interval
from semigrid.grid.experiment import show_percent
from semigrid.grid.status.show import show_seconds
from semigrid.grid.tables.sheet import NONE, Column, Sheet, frame_records
from semigrid.trainers.weights import Weights


def frame(results: Results) -> pd.DataFrame:
    """The table as numbers, one row per cell and always the same columns.

    Accuracies are in per cent, ``ce`` in nats, ``ece`` from 0 to 1; what is missing is missing.
    ``to_best`` is the difference of Acc@1 from the dataset's best cell, ``to_best_p`` its p-value,
    corrected among all pairs of the dataset.
    """
    records = []
    for row in results.rows:
        record = cell_facts(row)
        for metric in METRICS:
            record[metric] = row.mean(metric)
            record[f"{metric}_std"] = row.std(metric)
        record["acc1_low"] = None if row.interval is None else 100 * row.interval.low
        record["acc1_high"] = None if row.interval is None else 100 * row.interval.high
        record |= {"macro": row.mean("macro"), "ece": row.mean("ece")}
        pair = results.standings.to_best(row.cell)
        record["standing"] = standing(results, row)
        record["to_best"] = None if pair is None else -100 * pair.found.difference
        record["to_best_p"] = None if pair is None else pair.p
        record["paper_acc1"] = row.paper
        record |= {"seeds": len(row.test), "trials": row.trials, "stopped": row.stopped}
        record["collapsed"] = row.collapsed
        record["training_seconds"] = round(row.seconds, 1)
        records.append(record)
    return typed(pd.DataFrame.from_records(records))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """With columns of the same types whether or not anything is missing."""
    for name in table.columns:
        if name in ("pool_images", "test_images", "train_images"):
            table[name] = table[name].astype("Int64")
        elif table[name].isna().all():
            text = name in ("unlabeled", "standing", "slice", "value", "extrapolated")
            table[name] = table[name].astype("object" if text else "float64")
    return table


def cell_facts(row: Row) -> dict[str, Any]:
    return {
        "cell": row.cell.name,
        "dataset": row.cell.dataset,
        "model": row.cell.model,
        "labels": show_percent(row.cell.labels),
        "labeled_images": row.labeled_images,
        "unlabeled": show_percent(row.cell.unlabeled) if row.cell.unlabeled else None,
        "pool_images": row.pool_images,
        "state": row.state,
    }


def show_scores(scores: Sequence[float], digits: int = 2) -> str:
    """``95.50 ± 1.32``, of one seed ``95.50``."""
    middle, spread = mean(scores), std(scores)
    if middle is None:
        return NONE
    return f"{middle:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def show_interval(interval: Interval | None) -> str:
    """Of a share, in per cent: ``93.1–97.2``."""
    if interval is None:
        return NONE
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def show_points(difference: float) -> str:
    """Of shares, in points: ``+1.50``, ``−0.70``."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}".replace("-", "−")


def show_paper(row: Row) -> str:
    """What the paper has, to its own digits."""
    return NONE if row.paper is None else f"{row.paper:.3f}"


def _show_standing(results: Results, row: Row) -> str:
    found = standing(results, row)
    pair = results.standings.to_best(row.cell)
    if found is None:
        return NONE
    if found != "below":
        return "highest" if pair is None and found == NOT_SEPARABLE else found
    assert pair is not None
    return show_points(-pair.found.difference)


def _show_trials(row: Row) -> str:
    notes = [f"{row.stopped} stopped"] if row.stopped else []
    notes += [f"{row.collapsed} collapsed"] if row.collapsed else []
    return str(row.trials) + (f" ({', '.join(notes)})" if notes else "")


def cell_columns(rows: Sequence[Row], with_dataset: bool = False) -> list[Column[Row]]:
    """What names a cell; the dataset only where there are several, or it is asked for."""
    several = len({row.cell.dataset for row in rows}) > 1
    return [
        *([_DATASET] if several or with_dataset else []),
        Column("model", lambda row: row.cell.model, is_name=True),
        Column("labels", lambda row: show_percent(row.cell.labels)),
        Column("images", lambda row: str(row.labeled_images)),
        Column(
            "unlabelled",
            lambda row: show_percent(row.cell.unlabeled) if row.cell.unlabeled else NONE,
        ),
    ]


_DATASET: Column[Row] = Column("dataset", lambda row: row.cell.dataset, is_name=True)


def acc1_column(results: Results) -> Column[Row]:
    return Column(
        "Acc@1",
        lambda row: show_scores(row.scores("acc1")),
        may_break=True,
        is_marked=lambda row: results.standings.is_marked(row.cell),
    )


def cells_sheet(results: Results) -> Sheet[Row]:
    """A line for each cell with its scores; in a terminal of 80 columns, those that fit."""
    rows = results.rows
    columns = [*cell_columns(rows), acc1_column(results)]
    if any(row.interval is not None for row in rows):
        columns.append(
            Column(f"{LEVEL:.0%}", lambda row: show_interval(row.interval), is_spare=True)
        )
    if results.tasks:
        columns.append(Column("paper", show_paper))
    columns.append(Column("Acc@5", lambda row: show_scores(row.scores("acc5")), may_break=True))
    columns.append(
        Column("CE", lambda row: show_scores(row.scores("ce"), digits=3), may_break=True)
    )
    if any(_differ(row.scores("macro"), [100 * j.scores.acc1 for j in row.judged]) for row in rows):
        columns.append(
            Column(
                "macro", lambda row: show_scores(row.scores("macro")), may_break=True, is_spare=True
            )
        )
    if any(row.judged for row in rows):
        columns.append(Column("vs best", lambda row: _show_standing(results, row), is_spare=True))
        columns.append(Column("ECE", lambda row: _show_one(row.mean("ece"), 3), is_spare=True))
    columns.append(Column("trials", _show_trials))
    columns.append(Column("time", lambda row: show_seconds(row.seconds)))
    return Sheet(
        title="Results",
        columns=columns,
        rows=rows,
        frame=frame(results),
        notes=[*results.standings.notes(), *weights_notes(rows)],
        problems=results.problems,
        records=cell_records(results),
        is_dim=is_unfinished,
    )


def _differ(first: list[float], second: list[float]) -> bool:
    """A test set of as many images of each class has one mean, not two."""
    return any(abs(a - b) > 1e-9 for a, b in zip(first, second, strict=True))


def _show_one(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def is_unfinished(row: Row) -> bool:
    return row.state != "finished"


def cell_records(results: Results) -> list[dict[str, Any]]:
    """The cells with all that is known of them, for JSON."""
    records = frame_records(frame(results))
    for record, row in zip(records, results.rows, strict=True):
        record["test_per_seed"] = row.test
        record["failure"] = row.failure
        record["weights"] = None if row.weights is None else row.weights.model_dump()
        record["device_seconds"] = row.device_seconds
    return records


def few_notes(images: Iterable[int]) -> list[str]:
    """What a ``*`` beside numbers of test images means, if there is one."""
    if any(number < FEW_IMAGES for number in images):
        return [f"* fewer than {FEW_IMAGES} test images: take these scores as a hint"]
    return []


def weights_notes(rows: Sequence[Row]) -> list[str]:
    """What the weights that models start from allow."""
    by_weights: dict[Weights, list[str]] = {}
    for row in rows:
        if row.weights is not None:
            models = by_weights.setdefault(row.weights, [])
            models += [row.cell.model] if row.cell.model not in models else []
    return [
        f"weights of {', '.join(of)}: {weights.describe()}" for weights, of in by_weights.items()
    ]
