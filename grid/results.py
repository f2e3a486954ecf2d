"""The results table, derived from the ledger."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from grid.experiment import labeled_images, show_percent
from grid.ledger import COLLAPSED, Record
from grid.plan import Cell
from grid.scheduler import Scheduler
from grid.show import show_seconds
from grid.slices import FEW_IMAGES, BySlice
from trainers.weights import Weights

METRICS = ("acc1", "acc5", "ce")
NONE = "—"


@dataclass(frozen=True)
class Row:
    """A cell's line: its state, test metrics of its winner per seed, and what it took.

    ``stopped`` of its trials fell behind, ``collapsed`` of its trainings led nowhere; ``seconds``
    is the time of all its trainings together, the parent's not counted.
    """

    cell: Cell
    state: str
    labeled_images: int
    test: list[dict[str, float]]
    trials: int
    stopped: int
    collapsed: int
    seconds: float
    failure: str | None
    weights: Weights | None = None

    def scores(self, metric: str) -> list[float]:
        return [seed[metric] for seed in self.test]

    def mean(self, metric: str) -> float | None:
        return mean(self.scores(metric))

    def std(self, metric: str) -> float | None:
        return std(self.scores(metric))


def mean(scores: Sequence[float]) -> float | None:
    """Over seeds; None without any."""
    return sum(scores) / len(scores) if scores else None


def std(scores: Sequence[float]) -> float | None:
    """Sample standard deviation over seeds; None with fewer than two."""
    return float(pd.Series(scores).std(ddof=1)) if len(scores) > 1 else None


def table_rows(scheduler: Scheduler, records: dict[str, Record]) -> list[Row]:
    """One row per cell of the grid, in the file's order."""
    rows = []
    experiment = scheduler.plan.experiment
    for cell in scheduler.plan.cells:
        state = scheduler.states[cell.name]
        known = [records[spec.id] for spec in state.specs if spec.id in records]
        outcomes = [scheduler.outcome(trial) for trial in state.trials]
        finished = state.state == "finished"
        tests = [records[spec.id].test for spec in state.by_seed.values()] if finished else []
        rows.append(
            Row(
                cell=cell,
                state=state.state,
                labeled_images=labeled_images(experiment.datasets[cell.dataset], cell.labels),
                test=[test for test in tests if test is not None],
                trials=sum(outcome is not None for outcome in outcomes),
                stopped=outcomes.count("stopped"),
                collapsed=sum(r.status in COLLAPSED for r in known),
                seconds=sum(r.seconds for r in known),
                failure=state.failure,
                weights=next((r.weights for r in known if r.weights is not None), None),
            )
        )
    return rows


def frame(rows: list[Row]) -> pd.DataFrame:
    """The table as numbers, one row per cell; missing scores are missing."""
    seeds = max((len(row.test) for row in rows), default=0)
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "dataset": row.cell.dataset,
            "model": row.cell.model,
            "labels": show_percent(row.cell.labels),
            "labeled_images": row.labeled_images,
            "unlabeled": show_percent(row.cell.unlabeled) if row.cell.unlabeled else None,
            "state": row.state,
        }
        for metric in METRICS:
            record[metric] = row.mean(metric)
            if seeds > 1:
                record[f"{metric}_std"] = row.std(metric)
        record |= {"seeds": len(row.test), "trials": row.trials, "stopped": row.stopped}
        record["collapsed"] = row.collapsed
        record["training_seconds"] = round(row.seconds, 1)
        records.append(record)
    return pd.DataFrame.from_records(records)


def slice_frame(rows: list[Row], by: BySlice) -> pd.DataFrame:
    """Accuracy by slice as numbers, in long form: one row per cell and value of its dataset.

    ``acc1`` is the cell's over all its test images, as in ``frame``, and ``slice_acc1`` the one on
    the ``test_images`` with this value; a cell whose dataset lacks the slice has one row without.
    """
    cells = frame(rows)
    first = ["dataset", "model", "labels", "labeled_images", "unlabeled", "state", "seeds"]
    accuracy = [name for name in ("acc1", "acc1_std") if name in cells]
    records = []
    for cell, row in zip(cells[first + accuracy].to_dict("records"), rows, strict=True):
        for value, of in _slice_facts(row, by).items() or [(None, {})]:
            record = {
                **cell,
                "slice": by.name,
                "value": value,
                "test_images": of.get("images"),
                "slice_acc1": of.get("acc1"),
            }
            if "acc1_std" in accuracy:
                record["slice_acc1_std"] = of.get("acc1_std")
            seeds = [acc1 for acc1 in of.get("acc1_per_seed", []) if acc1 is not None]
            records.append({**record, "slice_seeds": len(seeds)})
    return pd.DataFrame.from_records(records).astype({"test_images": "Int64"})


def _slice_facts(row: Row, by: BySlice) -> dict[str, dict[str, Any]]:
    """By value; ``acc1_per_seed`` has None where a seed's predictions cannot be used."""
    return {
        value: {
            "images": by.images[row.cell.dataset][value],
            "acc1_per_seed": by.acc1_per_seed(row.cell, value),
            "acc1": mean(by.scores(row.cell, value)),
            "acc1_std": std(by.scores(row.cell, value)),
        }
        for value in by.values([row.cell.dataset])
    }


@dataclass(frozen=True)
class Column:
    """A column as people read it. Scores, unlike names, may break after their ±."""

    header: str
    shown: Callable[[Row], str]
    is_name: bool = False
    is_score: bool = False


def _show_scores(scores: Sequence[float], digits: int = 2) -> str:
    middle, spread = mean(scores), std(scores)
    if middle is None:
        return NONE
    return f"{middle:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _show_trials(row: Row) -> str:
    notes = [f"{row.stopped} stopped"] if row.stopped else []
    notes += [f"{row.collapsed} collapsed"] if row.collapsed else []
    return str(row.trials) + (f" ({', '.join(notes)})" if notes else "")


CELL = (
    Column("dataset", lambda row: row.cell.dataset, is_name=True),
    Column("model", lambda row: row.cell.model, is_name=True),
    Column("labels", lambda row: show_percent(row.cell.labels)),
    Column("images", lambda row: str(row.labeled_images)),
    Column(
        "unlabelled",
        lambda row: show_percent(row.cell.unlabeled) if row.cell.unlabeled else NONE,
    ),
)
ACC1 = Column("Acc@1", lambda row: _show_scores(row.scores("acc1")), is_score=True)
COLUMNS = (
    *CELL,
    ACC1,
    Column("Acc@5", lambda row: _show_scores(row.scores("acc5")), is_score=True),
    Column("CE", lambda row: _show_scores(row.scores("ce"), digits=3), is_score=True),
    Column("trials", _show_trials),
    Column("time", lambda row: show_seconds(row.seconds)),
)


def slice_columns(rows: list[Row], by: BySlice) -> list[Column]:
    """A column for each value of a slice, its header with the number of test images.

    ``north (412)``, with several datasets a line for each, ``(aprons 412)``; a number that is too
    small to rely on has a ``*``.
    """
    datasets = list(dict.fromkeys(row.cell.dataset for row in rows))

    def column(value: str) -> Column:
        header = value
        for dataset in datasets:
            images = by.images.get(dataset, {}).get(value)
            if images is not None:
                header += f"\n({dataset} {images})" if len(datasets) > 1 else f" ({images})"
                header += "*" if images < FEW_IMAGES else ""
        return Column(header, lambda row: _show_scores(by.scores(row.cell, value)), is_score=True)

    return [column(value) for value in by.values(datasets)]


def rich_tables(rows: list[Row], console: Console, by: BySlice | None = None) -> list[Table]:
    """What a terminal shows: one table, or as many as it takes to hold a slice's values."""
    if by is None:
        return [rich_table(rows)]
    first = [*CELL, ACC1]
    boundless = console.options.update(max_width=10**6)
    tables: list[Table] = []
    held: list[Column] = []
    for column in slice_columns(rows, by):
        wider = rich_table(rows, [*first, *held, column])
        if held and Measurement.get(console, boundless, wider).maximum > console.width:
            tables.append(rich_table(rows, [*first, *held]))
            held = []
        held.append(column)
    return [*tables, rich_table(rows, [*first, *held])]


def rich_table(rows: list[Row], columns: Sequence[Column] = COLUMNS) -> Table:
    """The table for a terminal; 80 columns hold it for one dataset and one seed."""
    several = len({row.cell.dataset for row in rows}) > 1
    columns = [column for column in columns if several or column.header != "dataset"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(
            Text(column.header),
            justify="left" if column.is_name else "right",
            no_wrap=not column.is_score,
            overflow="fold",
        )
    for row in rows:
        shown = [column.shown(row) for column in columns]
        table.add_row(*shown, style="" if row.state == "finished" else "dim")
    return table


def notes(rows: list[Row], by: BySlice | None = None) -> list[str]:
    """What belongs under a table: what its scores cannot say, and what its weights allow."""
    by_weights: dict[Weights, list[str]] = {}
    for row in rows:
        if row.weights is not None:
            models = by_weights.setdefault(row.weights, [])
            models += [row.cell.model] if row.cell.model not in models else []
    return (_slice_notes(by) if by is not None else []) + [
        f"weights of {', '.join(of)}: {weights.describe()}" for weights, of in by_weights.items()
    ]


def _slice_notes(by: BySlice) -> list[str]:
    found = []
    if any(images < FEW_IMAGES for counts in by.images.values() for images in counts.values()):
        found.append(f"* fewer than {FEW_IMAGES} test images: take these scores as a hint")
    if not by.images and not by.problems:
        found.append(f"no cell is finished yet, so there is no accuracy by {by.name}")
    return found + by.problems


def markdown(rows: list[Row], by: BySlice | None = None) -> str:
    """The table in GitHub's Markdown."""
    columns = COLUMNS if by is None else (*CELL, ACC1, *slice_columns(rows, by))
    headers = [" ".join(column.header.split()).translate(_PLAIN) for column in columns]
    lines = ["| " + " | ".join(headers) + " |"]
    lines.append("|" + "|".join("---" if column.is_name else "---:" for column in columns) + "|")
    lines += ["| " + " | ".join(column.shown(row) for column in columns) + " |" for row in rows]
    lines += [line for note in notes(rows, by) for line in ("", note.translate(_PLAIN))]
    return "\n".join(lines)


# what would end a cell, or make a list or emphasis, in Markdown
_PLAIN = str.maketrans({"|": r"\|", "*": r"\*"})


def csv(rows: list[Row], by: BySlice | None = None) -> str:
    """The cells, one a line, or by slice one a line for each value."""
    buffer = io.StringIO()
    (frame(rows) if by is None else slice_frame(rows, by)).to_csv(buffer, index=False)
    return buffer.getvalue().rstrip("\n")


def as_json(rows: list[Row], by: BySlice | None = None) -> str:
    """The cells with all that is known of them; by slice also each value's scores."""
    records = json.loads(frame(rows).to_json(orient="records", double_precision=15))
    for record, row in zip(records, rows, strict=True):
        record["cell"] = row.cell.name
        record["test_per_seed"] = row.test
        record["failure"] = row.failure
        record["weights"] = None if row.weights is None else row.weights.model_dump()
        if by is not None:
            record["slices"] = {by.name: _slice_facts(row, by)}
    return json.dumps(records, indent=1)
