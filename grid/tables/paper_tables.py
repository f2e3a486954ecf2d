"""The paper's tables 2 and 3, made from one's own results."""

from fractions import Fraction

from semigrid.data.errors import InputError
from semigrid.grid.analysis.numbers import show_count
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cells_frame,
    interval_column,
    label_notes,
    score_columns,
    weights_notes,
)
from semigrid.grid.tables.table import Column, Table

LabelsRow = dict[str, CellResult]  # a model at a label fraction: its cell on every dataset


def labels_table(results: ResultSet) -> Table[LabelsRow]:
    """The paper's Table 2: models by label fractions, a group of columns for each dataset.

    Where cells differ in their pool only, the one with the smallest is shown.
    """
    rows: dict[tuple[str, Fraction], LabelsRow] = {}
    cells = [row for row in results.rows if row.cell.control is None]
    for row in sorted(cells, key=lambda row: row.cell.unlabeled or 0):
        of_model = rows.setdefault((row.cell.model, row.cell.labels), {})
        of_model.setdefault(row.cell.dataset, row)
    models = list(results.plan.experiment.file.models)
    ordered = [rows[key] for key in sorted(rows, key=lambda key: (models.index(key[0]), key[1]))]

    def any_cell(row: LabelsRow) -> Cell:
        return next(iter(row.values())).cell

    columns: list[Column[LabelsRow]] = [
        Column(None, lambda row: any_cell(row).model, "model", is_name=True),
        Column(None, lambda row: show_percent(any_cell(row).labels), "labels"),
    ]
    for dataset in results.datasets:
        prefix = f"{dataset}\n" if len(results.datasets) > 1 else ""
        with_paper = dataset in results.paper_tasks
        for column in (acc1_column(results), *score_columns(with_paper)):
            columns.append(_on_dataset(column, dataset, prefix))
    shown = [cell for row in ordered for cell in row.values()]
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
        cell = row.get(dataset)
        return None if cell is None else column.text(cell)

    def is_bold(row: LabelsRow) -> bool:
        return dataset in row and column.is_bold(row[dataset])

    header = f"{prefix}{column.header}"
    return Column(None, text, header, may_break=True, is_bold=is_bold)


def pool_table(results: ResultSet) -> Table[CellResult]:
    """The paper's Table 3: the same labels with more and more unlabelled images.

    Raises ``InputError`` where no cells differ in their pool only.
    """
    groups: dict[tuple[str, str, Fraction], list[CellResult]] = {}
    for row in results.rows:
        if row.cell.unlabeled is not None and row.cell.control is None:
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
        notes=[*label_notes("images", rows), *weights_notes(rows)],
        problems=results.problems,
    )
