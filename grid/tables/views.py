"""Other tables of the same results: the paper's two, and every pair of cells."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.grid.analysis.answer import answer
from semigrid.grid.analysis.classes import classes_sheet, confusions_sheet
from semigrid.grid.analysis.comparisons import NOT_SEPARABLE, Pair
from semigrid.grid.analysis.costs import costs_sheet
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import Results, Row
from semigrid.grid.analysis.statistics import LEVEL, Interval
from semigrid.grid.experiment import show_percent
from semigrid.grid.tables.answer_sheets import claims_sheet, savings_sheet
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cells_sheet,
    frame,
    show_interval,
    show_paper,
    show_points,
    show_scores,
    weights_notes,
)
from semigrid.grid.tables.formats import View
from semigrid.grid.tables.sheet import NONE, Column, Sheet


def view_sheet(known: Known, view: View) -> Sheet[Any]:
    """Raises ``InputError`` where the results have nothing that the view could show."""
    views: dict[View, Callable[[Known], Sheet[Any]]] = {
        View.cells: cells_view,
        View.labels: labels_sheet,
        View.pool: pool_sheet,
        View.classes: classes_sheet,
        View.confusions: confusions_sheet,
        View.comparisons: comparisons_sheet,
        View.costs: costs_sheet,
        View.savings: lambda known: savings_sheet(answer(known)),
        View.claims: lambda known: claims_sheet(answer(known)),
    }
    return views[view](known)


def cells_view(known: Known) -> Sheet[Row]:
    """A line for each cell and, below it, what that says of labels."""
    sheet = cells_sheet(known.results)
    headlines = [each.text for each in answer(known).headlines if each.against is not None]
    return replace(sheet, notes=[*headlines, *sheet.notes])


@dataclass(frozen=True)
class Line:
    """A model at a label fraction, on every dataset."""

    model: str
    labels: Fraction
    by_dataset: dict[str, Row]


def labels_sheet(known: Known) -> Sheet[Line]:
    """The paper's Table 2: models by label fractions, a group of columns for each dataset.

    Of cells that differ in their pool only, the one with the smallest.
    """
    results = known.results
    lines: dict[tuple[str, Fraction], Line] = {}
    for row in sorted(results.rows, key=lambda row: row.cell.unlabeled or 0):
        key = row.cell.model, row.cell.labels
        line = lines.setdefault(key, Line(*key, {}))
        line.by_dataset.setdefault(row.cell.dataset, row)
    order = {model: number for number, model in enumerate(known.plan.experiment.file.models)}
    ordered = sorted(lines.values(), key=lambda line: (order[line.model], line.labels))
    datasets = list(dict.fromkeys(row.cell.dataset for row in results.rows))
    columns: list[Column[Line]] = [
        Column("model", lambda line: line.model, is_name=True),
        Column("labels", lambda line: show_percent(line.labels)),
    ]
    for dataset in datasets:
        columns += _of_dataset(results, dataset, with_name=len(datasets) > 1)
    shown = [row for line in ordered for row in line.by_dataset.values()]
    return Sheet(
        title="Models by label fraction",
        columns=columns,
        rows=ordered,
        frame=frame(Results(shown, results.standings, results.problems, results.tasks)),
        notes=[*results.standings.notes(), *weights_notes(shown)],
        problems=results.problems,
        kept=2,
    )


def _of_dataset(results: Results, dataset: str, with_name: bool) -> list[Column[Line]]:
    name = f"{dataset}\n" if with_name else ""

    def column(header: str, shown: Callable[[Row], str], marked: bool = False) -> Column[Line]:
        def of(line: Line) -> str:
            row = line.by_dataset.get(dataset)
            return NONE if row is None else shown(row)

        def is_marked(line: Line) -> bool:
            row = line.by_dataset.get(dataset)
            return marked and row is not None and results.standings.is_marked(row.cell)

        return Column(name + header, of, may_break=True, is_marked=is_marked)

    found = [column("Acc@1", lambda row: show_scores(row.scores("acc1")), marked=True)]
    if dataset in results.tasks:
        found.append(column("paper", show_paper))
    found.append(column("Acc@5", lambda row: show_scores(row.scores("acc5"))))
    found.append(column("CE", lambda row: show_scores(row.scores("ce"), digits=3)))
    return found


def pool_sheet(known: Known) -> Sheet[Row]:
    """The paper's Table 3: the same labels with more and more unlabelled images.

    Raises ``InputError`` where no cells differ in their pool only.
    """
    results = known.results
    groups: dict[tuple[str, str, Fraction], list[Row]] = {}
    for row in results.rows:
        if row.cell.unlabeled is not None:
            cell = row.cell
            groups.setdefault((cell.dataset, cell.model, cell.labels), []).append(row)
    rows = [
        row
        for group in groups.values()
        if len(group) > 1
        for row in sorted(group, key=lambda row: row.cell.unlabeled or 0)
    ]
    if not rows:
        raise InputError(
            f"{known.plan.experiment.source}: no cells differ in their unlabelled images only; add "
            "a row such as {model: semi-vit, labels: [50%], unlabeled: [100%, 200%, 300%]} to grid"
        )
    columns = [*cell_columns(rows)]
    columns.append(Column("pool", lambda row: f"{row.pool_images:,}"))
    columns.append(acc1_column(results))
    columns.append(Column(f"{LEVEL:.0%}", lambda row: show_interval(row.interval)))
    if results.tasks:
        columns.append(Column("paper", show_paper))
    columns.append(Column("Acc@5", lambda row: show_scores(row.scores("acc5")), may_break=True))
    columns.append(Column("CE", lambda row: show_scores(row.scores("ce"), 3), may_break=True))
    return Sheet(
        title="More unlabelled images",
        columns=columns,
        rows=rows,
        frame=frame(Results(rows, results.standings, results.problems, results.tasks)),
        notes=weights_notes(rows),
        problems=results.problems,
    )


def comparisons_sheet(known: Known) -> Sheet[Pair]:
    """Every pair of a dataset's cells: the difference, its interval, and whether it is one."""
    pairs = [pair for of in known.results.standings.pairs.values() for pair in of]
    columns: list[Column[Pair]] = [
        Column("cell", lambda pair: pair.better.name, is_name=True),
        Column("less", lambda pair: pair.other.name, is_name=True),
        Column("points", lambda pair: show_points(pair.found.difference)),
        Column(f"{LEVEL:.0%}", lambda pair: show_range(pair.found.interval)),
        Column("p (Holm)", lambda pair: show_p(pair.p)),
        Column("", lambda pair: "separable" if pair.separable else NOT_SEPARABLE, is_name=True),
    ]
    records = [
        {
            "dataset": pair.better.dataset,
            "cell": pair.better.name,
            "other": pair.other.name,
            "difference": 100 * pair.found.difference,
            "difference_low": 100 * pair.found.interval.low,
            "difference_high": 100 * pair.found.interval.high,
            "p": pair.found.p,
            "p_holm": pair.p,
            "separable": pair.separable,
        }
        for pair in pairs
    ]
    names = ["dataset", "cell", "other", "difference", "difference_low", "difference_high"]
    return Sheet(
        title="Comparisons",
        columns=columns,
        rows=pairs,
        frame=pd.DataFrame.from_records(records, columns=[*names, "p", "p_holm", "separable"]),
        notes=[
            "points of Acc@1 on the same test images; p-values are corrected for all pairs of a "
            "dataset, intervals are not",
        ],
        problems=known.results.problems,
    )


def show_range(interval: Interval) -> str:
    """Of a difference of shares, in points: ``−0.3 to +2.1``."""
    shown = [f"{100 * end:+.1f}".replace("-", "−") for end in (interval.low, interval.high)]
    return " to ".join(shown)


def show_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
