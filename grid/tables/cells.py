"""The tables of cells and of their pairs, and the columns that other tables of cells share."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import methodcaller
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE, Pair, Planned
from semigrid.grid.analysis.numbers import (
    show_interval,
    show_number,
    show_p,
    show_points,
    show_points_range,
    show_scores,
)
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.experiment.label_count import LabelCount
from semigrid.grid.experiment.schema import Control, show_percent
from semigrid.grid.status.show import show_seconds
from semigrid.grid.study.ledger import SCORES
from semigrid.grid.tables.table import Column, Table, frame_of, frame_records
from semigrid.trainers.models.weights import Weights

T = TypeVar("T")
CellColumns = list[Column[CellResult]]

_show_thousandths = partial(show_number, digits=3)


class _Words(NamedTuple):
    """What stands for a control in a column, and what it means."""

    name: str
    what: str


_CONTROLS: dict[Control, _Words] = {
    "compute": _Words("longer", "none, trained on the labels alone for as many forward passes"),
    "labeled-pool": _Words("labelled", "the cell's own labelled images"),
}


def cell_columns(rows: Sequence[CellResult]) -> CellColumns:
    """What names a cell; people see the dataset only where there are several."""
    several = len({row.cell.dataset for row in rows}) > 1
    dataset = "dataset" if several else None
    return [
        Column("cell", lambda row: row.cell.name),
        Column("dataset", lambda row: row.cell.dataset, dataset, is_name=True),
        Column("model", lambda row: row.cell.model, "model", is_name=True),
        Column("labels", lambda row: show_percent(row.cell.labels), "labels"),
        *label_count_columns("images", lambda row: row.label_count, is_spare=True),
        Column("unlabeled", _unlabeled),
        Column("control", lambda row: row.cell.control),
        Column(None, _pool, "pool", note=_controls_note(rows)),
        Column("pool_images", lambda row: row.pool_images),
        Column("state", lambda row: row.state),
    ]


def label_count_columns(
    header: str,
    count_of: Callable[[T], LabelCount],
    show: Callable[[Any], str] = str,
    is_spare: bool = False,
) -> list[Column[T]]:
    """The labels that a cell uses, and how many of them are of train and of val."""
    return [
        Column("labeled_images", lambda row: count_of(row).total, header, show, is_spare=is_spare),
        Column("train_images", lambda row: count_of(row).train),
        Column("val_images", lambda row: count_of(row).val),
    ]


def label_notes(header: str, rows: Sequence[CellResult]) -> list[str]:
    """What the numbers of labels below a header count, by the smallest fraction of each dataset."""
    smallest: dict[str, CellResult] = {}
    for row in sorted(rows, key=lambda row: row.labeled_images):
        smallest.setdefault(row.cell.dataset, row)
    examples = [
        f"{show_percent(row.cell.labels)} of {dataset} is {row.label_count}"
        for dataset, row in smallest.items()
    ]
    return [f"{header}: all labels used, of train and val: {'; '.join(examples)}"] if rows else []


def _unlabeled(row: CellResult) -> str | None:
    """The multiplier; None for a control, which sees none of the pool."""
    if row.cell.unlabeled is None or row.cell.control is not None:
        return None
    return show_percent(row.cell.unlabeled)


def _pool(row: CellResult) -> str | None:
    """The multiplier, or what a control has in the pool's place."""
    return _CONTROLS[row.cell.control].name if row.cell.control else _unlabeled(row)


def _controls_note(rows: Iterable[CellResult]) -> str | None:
    kinds = dict.fromkeys(row.cell.control for row in rows if row.cell.control)
    notes = [f"{_CONTROLS[kind].name}: {_CONTROLS[kind].what}" for kind in kinds]
    return f"pool of controls: {'; '.join(notes)}" if notes else None


def acc1_column(results: ResultSet) -> Column[CellResult]:
    return Column(
        None,
        methodcaller("scores", "acc1"),
        "Acc@1",
        show_scores,
        may_break=True,
        is_bold=lambda row: results.standings.standing(row.cell) == "best",
    )


def interval_column(is_spare: bool = False) -> Column[CellResult]:
    return Column(None, lambda row: row.interval, f"{LEVEL:.0%}", show_interval, is_spare=is_spare)


def score_columns(with_paper: bool) -> CellColumns:
    """What stands beside Acc@1: the paper's value, Acc@5, and cross-entropy."""
    return [*_paper_column(with_paper), *_other_scores()]


def _paper_column(with_paper: bool) -> CellColumns:
    return [Column(None, lambda row: row.paper, "paper", _show_thousandths)] if with_paper else []


def _other_scores(is_spare: bool = False) -> CellColumns:
    show_ce = partial(show_scores, digits=3)
    acc5, ce = methodcaller("scores", "acc5"), methodcaller("scores", "ce")
    return [
        Column(None, acc5, "Acc@5", show_scores, may_break=True, is_spare=is_spare),
        Column(None, ce, "CE", show_ce, may_break=True, is_spare=is_spare),
    ]


def _all_columns(results: ResultSet, rows: Sequence[CellResult]) -> CellColumns:
    """For people and for programs, which get the same ones whatever is finished.

    Accuracies are in per cent, ``ce`` in nats, ``ece`` from 0 to 1. Scores are balanced unless
    their name ends in ``natural``. ``to_best`` is the difference of Acc@1 from the dataset's best
    cell in points, ``to_best_p`` its p-value, corrected among all pairs of the dataset, without
    controls.
    ``to_baseline`` is the difference from ``baseline``, ``to_baseline_p`` its p-value, corrected
    among these pairs. A narrow terminal drops spare columns from the right.
    """
    to_best, standing = results.standings.to_best, results.standings.standing
    planned = results.planned.get
    compared = any(row.has_predictions for row in rows)
    return [
        *cell_columns(rows),
        acc1_column(results),
        *([interval_column(is_spare=True)] if compared else []),
        *_paper_column(bool(results.paper_tasks)),
        Column(
            None,
            lambda row: planned(row.cell),
            "vs baseline" if results.planned else None,
            _show_planned,
            is_spare=True,
            note=_baseline_note(results),
        ),
        Column(
            None,
            methodcaller("scores", "acc1_natural"),
            "natural" if compared else None,
            show_scores,
            may_break=True,
            is_spare=True,
        ),
        Column(
            None,
            lambda row: _show_standing(results, row),
            "vs best" if compared else None,
            is_spare=True,
            note=_BEST_NOTE if any(row.cell.control for row in rows) else None,
        ),
        *_other_scores(is_spare=True),
        *(
            Column(metric + suffix, methodcaller(statistic, metric))
            for metric in SCORES
            for suffix, statistic in (("", "mean"), ("_std", "std"))
        ),
        *(
            Column(f"{metric}_{end}", partial(_end, metric=metric, end=end))
            for metric in SCORES
            if metric.startswith("acc")
            for end in ("low", "high")
        ),
        Column(
            "ece",
            methodcaller("mean", "ece"),
            "ECE" if compared else None,
            _show_thousandths,
            is_spare=True,
        ),
        Column("standing", lambda row: standing(row.cell)),
        Column("to_best", lambda row: _to_best(results, row)),
        Column("to_best_p", lambda row: (pair := to_best(row.cell)) and pair.p),
        Column("baseline", lambda row: (pair := planned(row.cell)) and pair.baseline.name),
        Column("to_baseline", lambda row: (pair := planned(row.cell)) and _points(pair)),
        Column("to_baseline_p", lambda row: (pair := planned(row.cell)) and pair.p),
        Column("paper_acc1", lambda row: row.paper),
        Column("seeds", lambda row: len(row.test)),
        Column("trials", lambda row: row.trials),
        Column("stopped", lambda row: row.stopped),
        Column("collapsed", lambda row: row.collapsed),
        Column("pool_unused", lambda row: len(row.pool_unused)),
        Column("training_seconds", lambda row: round(row.seconds, 1)),
        Column(None, _show_trials, "trials", is_spare=True),
        Column(None, lambda row: row.seconds, "time", show_seconds, is_spare=True),
    ]


def _end(row: CellResult, metric: str, end: str) -> float | None:
    """An end of a score's interval, in per cent."""
    interval = row.intervals.get(metric)
    return None if interval is None else 100 * float(getattr(interval, end))


def cells_frame(results: ResultSet, rows: Sequence[CellResult]) -> pd.DataFrame:
    """Cells as numbers."""
    return frame_of(_all_columns(results, rows), rows)


_BEST_NOTE = "vs best: among the cells that are no controls; these have vs baseline"


def _to_best(results: ResultSet, row: CellResult) -> float | None:
    pair = results.standings.to_best(row.cell)
    return None if pair is None else -100 * pair.comparison.difference


def _points(pair: Planned) -> float:
    return 100 * pair.comparison.difference


def _show_planned(pair: Planned) -> str:
    """``+2.51 (p 0.031)``."""
    return f"{show_points(_points(pair))} (p {show_p(pair.p)})"


def _baseline_note(results: ResultSet) -> str:
    """What the baselines are, and how many pairs share the level."""
    pairs = Counter(cell.dataset for cell in results.planned)
    numbers = " and ".join(f"the {count} of {dataset}" for dataset, count in pairs.items())
    above = "the cell that a cell starts from"
    if any(pair.baseline.control for pair in results.planned.values()):
        above = (
            "a cell's compute control (a control, and a cell without one: above the cell that it "
            "starts from)"
        )
    return (
        f"vs baseline: points of Acc@1 above {above}; only these pairs were planned, and p-values "
        f"are corrected for {numbers}"
    )


def cell_records(results: ResultSet, rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Rows with everything that is known of them, for JSON."""
    records = frame_records(cells_frame(results, rows))
    for record, row in zip(records, rows, strict=True):
        record["test_per_seed"] = row.test
        record["failure"] = row.failure
        record["weights"] = None if row.weights is None else row.weights.model_dump()
        record["device_seconds"] = row.device_seconds
    return records


def cells_table(results: ResultSet) -> Table[CellResult]:
    """A line for each cell with its scores; in a terminal of 80 columns, those that fit."""
    return Table(
        "Results",
        _all_columns(results, results.rows),
        results.rows,
        [
            *label_notes("images", results.rows),
            *results.standings.notes(),
            *pool_notes(results.rows),
            *weights_notes(results.rows),
        ],
        results.problems,
        records=cell_records(results, results.rows),
        is_dim=is_unfinished,
    )


def _show_standing(results: ResultSet, row: CellResult) -> str | None:
    standing, to_best = results.standings.standing(row.cell), _to_best(results, row)
    if standing == "below" and to_best is not None:
        return show_points(to_best)
    return "highest" if standing == NOT_SEPARABLE and to_best is None else standing


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


def pool_notes(rows: Sequence[CellResult]) -> list[str]:
    """Which cells have a pool that did nothing, so that their scores say nothing of it, and why."""
    unused: dict[str, list[str]] = {}
    for row in rows:
        for why, seeds in Counter(row.pool_unused).items():
            of = f" ({seeds} of {len(row.test)} seeds)" if len(row.test) > 1 else ""
            unused.setdefault(why, []).append(row.cell.name + of)
    return [f"pool unused: {', '.join(cells)}: {why}" for why, cells in unused.items()]


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


_show_range = partial(show_points_range, digits=1)
_PAIR_COLUMNS: list[Column[Pair]] = [
    Column("dataset", lambda pair: pair.better.dataset),
    Column("cell", lambda pair: pair.better.name, "cell", is_name=True),
    Column("other", lambda pair: pair.other.name, "less", is_name=True),
    Column("difference", lambda pair: 100 * pair.comparison.difference, "points", show_points),
    Column(None, lambda pair: pair.comparison.interval, f"{LEVEL:.0%}", _show_range),
    Column("difference_low", lambda pair: 100 * pair.comparison.interval.low),
    Column("difference_high", lambda pair: 100 * pair.comparison.interval.high),
    Column("p", lambda pair: pair.comparison.p),
    Column("p_holm", lambda pair: pair.p, "p (Holm)", show_p),
    Column("separable", lambda pair: pair.separable),
    Column(None, lambda p: "separable" if p.separable else NOT_SEPARABLE, "", is_name=True),
]


def comparisons_table(results: ResultSet) -> Table[Pair]:
    """Every pair of a dataset's cells: the difference, its interval, and whether it is one.

    Controls are in the pairs that were planned only; see ``vs baseline``.
    """
    note = (
        "points of Acc@1 on the same test images; p-values are corrected for all pairs of a "
        "dataset, intervals are not"
    )
    if any(row.cell.control for row in results.rows):
        note += "; controls are compared in the column vs baseline of the table of cells"
    pairs = [pair for of_dataset in results.standings.pairs.values() for pair in of_dataset]
    return Table("Comparisons", _PAIR_COLUMNS, pairs, [note], results.problems)
