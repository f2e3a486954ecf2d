"""The table of Acc@1 by slice."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from semigrid.grid.analysis.numbers import show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.slices import BySlice, SliceResult, by_slice
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
    by = by_slice(results, name)
    first = [*cell_columns(results.rows), acc1_column(results)]
    notes = few_notes(images for values in by.images.values() for images in values.values())
    if not by.images and not results.problems:
        notes.append(f"no cell is finished yet, so there is no accuracy by {name}")
    if any(row.has_predictions and row.cell in by.results for row in results.rows):
        notes.append(f"in brackets: {LEVEL:.0%} intervals")
    return Table(
        f"Acc@1 by {name}",
        [*first, *slice_columns(results.rows, by)],
        results.rows,
        slice_frame(results, by),
        notes=[*notes, *weights_notes(results.rows)],
        problems=results.problems,
        records=[
            record | {"slices": {name: {v: _facts(of) for v, of in by.of_row(row).items()}}}
            for record, row in zip(cell_records(results), results.rows, strict=True)
        ],
        repeated=sum(column.header is not None for column in first),
        is_dim=is_unfinished,
    )


def slice_columns(rows: Sequence[CellResult], by: BySlice) -> list[Column[CellResult]]:
    """A column for each value of a slice, its header with the number of test images.

    The header is ``north (412)``, with several datasets a line for each, ``(aprons 412)``; a
    number that is too small to rely on has a ``*``. The text is ``77.50 ± 3.54 (62–88)``: mean
    and spread over seeds, and the interval.
    """
    datasets = list(dict.fromkeys(row.cell.dataset for row in rows))

    def column(value: str) -> Column[CellResult]:
        header = value
        for dataset in datasets:
            images = by.images.get(dataset, {}).get(value)
            if images is not None:
                header += f"\n({dataset} {images})" if len(datasets) > 1 else f" ({images})"
                header += "*" if images < FEW_IMAGES else ""

        def text(row: CellResult) -> str:
            result = by.results.get(row.cell, {}).get(value)
            shown = show_scores([] if result is None else result.acc1)
            if result is None or result.interval is None:
                return shown
            return f"{shown} ({show_interval(result.interval, digits=0)})"

        return Column(None, text, header, may_break=True)

    return [column(value) for value in by.values(datasets)]


class _CellAndValue(NamedTuple):
    """A row of the long form; a cell whose dataset lacks the slice has one without a value."""

    row: CellResult
    value: str | None
    facts: dict[str, Any]
    seeds: int = 0


def slice_frame(results: ResultSet, by: BySlice) -> pd.DataFrame:
    """Accuracy by slice as numbers, in long form: a row for each cell and value of its dataset.

    ``acc1`` is the cell's over all its test images, as in ``cells_frame``, and ``slice_acc1`` the
    one on the ``test_images`` with this value, both in per cent.
    """
    long = [
        each
        for row in results.rows
        for each in [
            _CellAndValue(row, value, _facts(result), len(result.acc1))
            for value, result in by.of_row(row).items()
        ]
        or [_CellAndValue(row, None, {})]
    ]

    def of_row(column: Column[CellResult]) -> Column[_CellAndValue]:
        return Column(column.name, lambda each: column.get(each.row))

    columns: list[Column[_CellAndValue]] = [
        *(of_row(column) for column in cell_columns(results.rows)),
        Column("seeds", lambda each: len(each.row.test)),
        Column("acc1", lambda each: each.row.mean("acc1")),
        Column("acc1_std", lambda each: each.row.std("acc1")),
        Column("slice", lambda each: by.name),
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
