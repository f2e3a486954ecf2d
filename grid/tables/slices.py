"""The table of Acc@1 by slice."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from semigrid.grid.analysis.numbers import show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.slices import SliceResult, SliceResults, largest_first, slice_results
from semigrid.grid.analysis.statistics import LEVEL, mean, std
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cell_records,
    few_notes,
    is_unfinished,
    weights_notes,
)
from semigrid.grid.tables.table import Column, Table, frame_of


def slices_table(results: ResultSet, name: str) -> Table[CellResult]:
    """Acc@1 on each value of a slice, the value with most test images first.

    Raises ``InputError`` where no dataset has the slice.
    """
    by_cell = slice_results(results, name)
    all_results = [result for values in by_cell.values() for result in values.values()]
    first = [*cell_columns(results.rows), acc1_column(results)]
    notes = few_notes(result.images for result in all_results)
    if not all_results and not results.problems:
        notes.append(f"no cell is finished yet, so there is no accuracy by {name}")
    if any(result.interval for result in all_results):
        notes.append(f"in brackets: {LEVEL:.0%} intervals")
    return Table(
        f"Acc@1 by {name}",
        [*first, *slice_columns(results.rows, by_cell)],
        results.rows,
        data=slice_frame(results.rows, name, by_cell),
        notes=[*notes, *weights_notes(results.rows)],
        problems=results.problems,
        records=[
            record
            | {"slices": {name: {value: _facts(of) for value, of in by_cell[row.cell].items()}}}
            for record, row in zip(cell_records(results), results.rows, strict=True)
        ],
        repeated=sum(column.header is not None for column in first),
        is_dim=is_unfinished,
    )


def slice_columns(rows: Sequence[CellResult], by_cell: SliceResults) -> list[Column[CellResult]]:
    """A column for each value of a slice, its header with the number of test images.

    The header is ``north (412)``, with several datasets a line for each, ``(aprons 412)``; a
    number that is too small to rely on has a ``*``. The text is ``77.50 ± 3.54 (62–88)``: mean
    and spread over seeds, and the interval.
    """
    by_dataset = {row.cell.dataset: by_cell[row.cell] for row in rows}
    images: Counter[str] = Counter()
    for values in by_dataset.values():
        images.update({value: result.images for value, result in values.items()})

    def column(value: str) -> Column[CellResult]:
        header = value
        for dataset, values in by_dataset.items():
            if value in values:
                count = values[value].images
                header += f"\n({dataset} {count})" if len(by_dataset) > 1 else f" ({count})"
                header += "*" if count < FEW_IMAGES else ""
        return Column(None, lambda row: _show(by_cell[row.cell].get(value)), header, may_break=True)

    return [column(value) for value in largest_first(images)]


def _show(result: SliceResult | None) -> str | None:
    if result is None or result.interval is None:
        return None
    return f"{show_scores(result.acc1)} ({show_interval(result.interval, digits=0)})"


class _RowAndValue(NamedTuple):
    """A row of the long form; a cell whose dataset lacks the slice has one without a value."""

    row: CellResult
    value: str | None
    facts: dict[str, Any]
    seeds: int = 0


def slice_frame(rows: Sequence[CellResult], name: str, by_cell: SliceResults) -> pd.DataFrame:
    """Accuracy by slice as numbers, in long form: a row for each cell and value of its dataset.

    ``acc1`` is the cell's over all its test images, as in ``cells_frame``, and ``slice_acc1`` the
    one on the ``test_images`` with this value, both in per cent.
    """
    long = [
        each
        for row in rows
        for each in [
            _RowAndValue(row, value, _facts(result), len(result.acc1))
            for value, result in by_cell[row.cell].items()
        ]
        or [_RowAndValue(row, None, {})]
    ]

    def of_row(column: Column[CellResult]) -> Column[_RowAndValue]:
        return Column(column.name, lambda each: column.get(each.row))

    columns: list[Column[_RowAndValue]] = [
        *(of_row(column) for column in cell_columns(rows)),
        Column("seeds", lambda each: len(each.row.test)),
        Column("acc1", lambda each: each.row.mean("acc1")),
        Column("acc1_std", lambda each: each.row.std("acc1")),
        Column("slice", lambda each: name),
        Column("value", lambda each: each.value),
        Column("test_images", lambda each: each.facts.get("images")),
        Column("slice_acc1", lambda each: each.facts.get("acc1")),
        Column("slice_acc1_std", lambda each: each.facts.get("acc1_std")),
        Column("slice_acc1_low", lambda each: each.facts.get("acc1_low")),
        Column("slice_acc1_high", lambda each: each.facts.get("acc1_high")),
        Column("slice_seeds", lambda each: each.seeds),
    ]
    return frame_of(columns, long)


def _facts(result: SliceResult) -> dict[str, Any]:
    """A cell's result on one value for programs; accuracies are in per cent."""
    return {
        "images": result.images,
        "acc1_per_seed": list(result.acc1_per_seed),
        "acc1": mean(result.acc1),
        "acc1_std": std(result.acc1),
        "acc1_low": result.interval and 100 * result.interval.low,
        "acc1_high": result.interval and 100 * result.interval.high,
    }
