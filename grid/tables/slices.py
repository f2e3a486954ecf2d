"""Acc@1 by slice: a score for each value of a column, from the winners' predictions.

It is the share of a slice's images that are right: a slice need not have every class, and classes
with an image or two in it would decide a balanced score.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semigrid.data.errors import InputError
from semigrid.grid.analysis.numbers import NONE, show_interval, show_scores
from semigrid.grid.analysis.result_set import FEW_IMAGES, CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, Interval, accuracy_interval, mean, plain, std
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cell_records,
    few_notes,
    is_unfinished,
    label_notes,
    weights_notes,
)
from semigrid.grid.tables.table import Column, Table, typed


@dataclass(frozen=True)
class SliceResult:
    """A cell's result on the test images with one value of a slice.

    ``acc1_per_seed`` is in per cent, None for a seed whose predictions cannot be used; a cell
    without predictions has no seeds and no ``interval`` (of the share).
    """

    images: int
    acc1_per_seed: Sequence[float | None] = ()
    interval: Interval | None = None

    @property
    def acc1(self) -> list[float]:
        """For the seeds that have one."""
        return [acc1 for acc1 in self.acc1_per_seed if acc1 is not None]

    @property
    def facts(self) -> dict[str, Any]:
        """The same for programs; accuracies are in per cent."""
        return {
            "images": self.images,
            "acc1_per_seed": list(self.acc1_per_seed),
            "acc1": mean(self.acc1),
            "acc1_std": std(self.acc1),
            "acc1_low": self.interval and 100 * self.interval.low,
            "acc1_high": self.interval and 100 * self.interval.high,
        }


SliceResults = Mapping[Cell, Mapping[str, SliceResult]]


def slice_results(results: ResultSet, name: str) -> SliceResults:
    """The rows' results by value, those with most test images first, images without one last.

    Rows whose dataset lacks the slice, or has no predictions yet, have no values. Raises
    ``InputError`` when no dataset has the slice.
    """
    having = _datasets_with(results.plan, name)
    by_cell: dict[Cell, dict[str, SliceResult]] = {}
    for row in results.rows:
        test_set = results.test_sets.get(row.cell.dataset)
        values = test_set.slices[name] if test_set and row.cell.dataset in having else ()
        named = np.array([value or NONE for value in values])
        by_cell[row.cell] = {
            value: _slice_result(row, named == value)
            for value in _largest_first(Counter(named.tolist()))
        }
    return by_cell


def _largest_first(images: Mapping[str, int]) -> list[str]:
    """Values of a slice by their numbers of images, ``—`` last."""
    return sorted(images, key=lambda value: (value == NONE, -images[value], value))


def _slice_result(row: CellResult, chosen: np.ndarray) -> SliceResult:
    """A row's result on the images for which ``chosen``, (N,), is true."""
    images = int(chosen.sum())
    acc1 = [
        None if seed is None else 100 * int(seed.right[chosen].sum()) / images for seed in row.seeds
    ]
    interval = accuracy_interval(plain(row.right[:, chosen])) if row.has_predictions else None
    return SliceResult(images, acc1, interval)


def _datasets_with(plan: Plan, name: str) -> set[str]:
    """The datasets of the experiment's cells that have the slice."""
    datasets = {cell.dataset: plan.experiment.datasets[cell.dataset] for cell in plan.cells}
    having = {dataset for dataset in datasets if name in datasets[dataset].manifest.slices}
    if not having:
        known = [f"{s} ({each})" for each, of in datasets.items() for s in of.manifest.slices]
        there = f"there are {', '.join(known)}" if known else "they have none"
        raise InputError(
            f"--by: {name!r} is no slice of {', '.join(datasets)}; {there}; a dataset is built "
            "with slices by `semigrid data build --slice COLUMN`"
        )
    return having


def slices_table(results: ResultSet, name: str) -> Table[CellResult]:
    """Acc@1 on each value of a slice, the value with most test images first, without controls.

    Raises ``InputError`` where no dataset has the slice.
    """
    rows, of_all = results.contenders, slice_results(results, name)
    by_cell = {row.cell: of_all[row.cell] for row in rows}
    all_results = [result for values in by_cell.values() for result in values.values()]
    first = [*cell_columns(rows), acc1_column(results)]
    notes = few_notes(result.images for result in all_results)
    if not all_results and not results.problems:
        notes.append(f"no cell is finished yet, so there is no accuracy by {name}")
    if any(result.interval for result in all_results):
        notes.append(
            f"by {name}: the share of the slice's images that are right, whatever their class; in "
            f"brackets: {LEVEL:.0%} intervals"
        )
    records = cell_records(results, rows)
    for record, values in zip(records, by_cell.values(), strict=True):
        record["slices"] = {name: {value: result.facts for value, result in values.items()}}
    return Table(
        f"Acc@1 by {name}",
        [*first, *slice_columns(rows, by_cell)],
        rows,
        [*notes, *label_notes("images", rows), *weights_notes(rows)],
        results.problems,
        data=_slice_frame(rows, name, by_cell),
        records=records,
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

    return [column(value) for value in _largest_first(images)]


def _show(result: SliceResult | None) -> str | None:
    if result is None or result.interval is None:
        return None
    return f"{show_scores(result.acc1)} ({show_interval(result.interval, digits=0)})"


def _slice_frame(rows: Sequence[CellResult], name: str, by_cell: SliceResults) -> pd.DataFrame:
    """Accuracy by slice as numbers, in long form: a row for each cell and value of its dataset.

    A cell whose dataset lacks the slice has a row without a value. ``acc1`` is the cell's over all
    its test images, as in ``cells_frame``, and ``slice_acc1`` the one on the ``test_images`` with
    this value, both in per cent.
    """
    long: list[dict[str | None, Any]] = []
    facts = "acc1", "acc1_std", "acc1_low", "acc1_high"
    for row in rows:
        of_cell = {column.name: column.get(row) for column in cell_columns(rows)}
        of_cell["seeds"] = len(row.test)
        of_cell |= {"acc1": row.mean("acc1"), "acc1_std": row.std("acc1"), "slice": name}
        for value, result in by_cell[row.cell].items() or [(None, SliceResult(0))]:
            long.append(
                of_cell
                | {"value": value, "test_images": result.images if value else None}
                | {f"slice_{fact}": result.facts[fact] for fact in facts}
                | {"slice_seeds": len(result.acc1)}
            )
    return typed(pd.DataFrame(long))
