"""The paper's tables 2 and 3, made from one's own results."""

from dataclasses import dataclass
from fractions import Fraction

from semigrid.data.errors import InputError
from semigrid.grid.analysis.numbers import show_count
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cells_frame,
    interval_column,
    score_columns,
    weights_notes,
)
from semigrid.grid.tables.table import Column, Table


@dataclass(frozen=True)
class LabelsRow:
    """A model at a label fraction, with its cell on every dataset."""

    model: str
    labels: Fraction
    by_dataset: dict[str, CellResult]


def labels_table(results: ResultSet) -> Table[LabelsRow]:
    """The paper's Table 2: models by label fractions, a group of columns for each dataset.

    Where cells differ in their pool only, the one with the smallest is shown.
    """
    rows: dict[tuple[str, Fraction], LabelsRow] = {}
    for row in sorted(results.rows, key=lambda row: row.cell.unlabeled or 0):
        key = row.cell.model, row.cell.labels
        rows.setdefault(key, LabelsRow(*key, {})).by_dataset.setdefault(row.cell.dataset, row)
    models = list(results.plan.experiment.file.models)
    ordered = sorted(rows.values(), key=lambda row: (models.index(row.model), row.labels))
    columns: list[Column[LabelsRow]] = [
        Column(None, lambda row: row.model, "model", is_name=True),
        Column(None, lambda row: show_percent(row.labels), "labels"),
    ]
    for dataset in results.datasets:
        prefix = f"{dataset}\n" if len(results.datasets) > 1 else ""
        with_paper = dataset in results.paper_tasks
        for column in (acc1_column(results), *score_columns(with_paper)):
            columns.append(_on_dataset(column, dataset, prefix))
    shown = [cell for row in ordered for cell in row.by_dataset.values()]
    return Table(
        "Models by label fraction",
        columns,
        ordered,
        data=cells_frame(results, shown),
        notes=[*results.standings.notes(), *weights_notes(shown)],
        problems=results.problems,
        repeated=2,
    )


def _on_dataset(column: Column[CellResult], dataset: str, prefix: str) -> Column[LabelsRow]:
    """The column of a cell, for the cells on one dataset."""

    def text(row: LabelsRow) -> str | None:
        cell = row.by_dataset.get(dataset)
        return None if cell is None else column.text(cell)

    def is_bold(row: LabelsRow) -> bool:
        return dataset in row.by_dataset and column.is_bold(row.by_dataset[dataset])

    header = f"{prefix}{column.header}"
    return Column(None, text, header, may_break=True, is_bold=is_bold)


def pool_table(results: ResultSet) -> Table[CellResult]:
    """The paper's Table 3: the same labels with more and more unlabelled images.

    Raises ``InputError`` where no cells differ in their pool only.
    """
    groups: dict[tuple[str, str, Fraction], list[CellResult]] = {}
    for row in results.rows:
        if row.cell.unlabeled is not None:
            key = row.cell.dataset, row.cell.model, row.cell.labels
            groups.setdefault(key, []).append(row)
    rows = [
        row
        for group in groups.values()
        if len(group) > 1
        for row in sorted(group, key=lambda row: row.cell.unlabeled or 0)
    ]
    if not rows:
        raise InputError(
            f"{results.plan.experiment.source}: no cells differ in their unlabelled images only; "
            "add a row such as {model: semi-vit, labels: [50%], unlabeled: [100%, 200%, 300%]} to "
            "grid"
        )
    return Table(
        "More unlabelled images",
        [
            *cell_columns(rows),
            Column(None, lambda row: row.pool_images, "pool", show_count),
            acc1_column(results),
            interval_column(),
            *score_columns(bool(results.paper_tasks)),
        ],
        rows,
        data=cells_frame(results, rows),
        notes=weights_notes(rows),
        problems=results.problems,
    )
