"""Acc@1 by slice: from the winners' prediction tables to a score for each value of a column."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from semigrid.data.errors import InputError
from semigrid.grid.analysis.measured import Measured
from semigrid.grid.analysis.results import FEW_IMAGES, Results, Row, mean, std
from semigrid.grid.analysis.statistics import LEVEL, Interval, accuracy_interval
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.tables.cells import (
    acc1_column,
    cell_columns,
    cell_facts,
    cell_records,
    few_notes,
    is_unfinished,
    show_scores,
    typed,
    weights_notes,
)
from semigrid.grid.tables.sheet import Column, Sheet

NO_VALUE = "—"  # the images without a value stand under it


class Tally(NamedTuple):
    """How many test images there are, and how many a model put into their class."""

    images: int
    right: int

    @property
    def acc1(self) -> float:
        """In per cent."""
        return 100 * self.right / self.images


@dataclass(frozen=True)
class BySlice:
    """What an experiment's finished cells score on the values of one slice.

    ``images`` counts test images by dataset and value. ``tallies`` has, by cell, one of each
    value for each seed of the winner, and None for a seed whose predictions cannot be used;
    ``intervals`` are those of Acc@1 as a share, by cell and value.
    """

    name: str
    images: dict[str, dict[str, int]]
    tallies: dict[Cell, list[dict[str, Tally] | None]]
    intervals: dict[tuple[Cell, str], Interval]

    def values(self, datasets: Sequence[str]) -> list[str]:
        """The values in these datasets, those with most test images first, ``—`` last."""
        total: Counter[str] = Counter()
        for dataset in datasets:
            total.update(self.images.get(dataset, {}))
        return sorted(total, key=lambda value: (value == NO_VALUE, -total[value], value))

    def acc1_per_seed(self, cell: Cell, value: str) -> list[float | None]:
        """In per cent; empty for a cell without scores on this value."""
        if value not in self.images.get(cell.dataset, {}):
            return []
        seeds = self.tallies.get(cell, [])
        return [None if tallies is None else tallies[value].acc1 for tallies in seeds]

    def scores(self, cell: Cell, value: str) -> list[float]:
        """The Acc@1 of the seeds that have one."""
        return [acc1 for acc1 in self.acc1_per_seed(cell, value) if acc1 is not None]

    def interval(self, cell: Cell, value: str) -> Interval | None:
        return self.intervals.get((cell, value))


def by_slice(measured: Measured, plan: Plan, name: str) -> BySlice:
    """Counts every finished cell whose dataset has the slice.

    Raises ``InputError`` when no dataset has it.
    """
    having = _datasets_with(plan, name)
    found = BySlice(name, {}, {}, {})
    for dataset, test_set in measured.test_sets.items():
        if dataset in having:
            images = tally(test_set.slices[name], np.ones(len(test_set.ids), bool))
            found.images[dataset] = {value: of.images for value, of in images.items()}
    for cell, seeds in measured.cells.items():
        if cell.dataset in found.images:
            values = measured.test_sets[cell.dataset].slices[name]
            found.tallies[cell] = [
                None if judged is None else tally(values, judged.right) for judged in seeds
            ]
            right, named = measured.right(cell), _named(values)
            if right is not None:
                for value in found.images[cell.dataset]:
                    found.intervals[cell, value] = accuracy_interval(right[:, named == value])
    return found


def tally(values: Sequence[str | None], right: np.ndarray) -> dict[str, Tally]:
    """Counts images and right ones by their value; those without one count under ``—``."""
    named = _named(values)
    return {
        str(value): Tally(int((named == value).sum()), int(right[named == value].sum()))
        for value in np.unique(named)
    }


def _named(values: Sequence[str | None]) -> np.ndarray:
    return np.array([value or NO_VALUE for value in values])


def _datasets_with(plan: Plan, name: str) -> set[str]:
    """The datasets of the experiment's cells that have the slice."""
    slices = {
        cell.dataset: plan.experiment.datasets[cell.dataset].manifest.slices for cell in plan.cells
    }
    having = {dataset for dataset, names in slices.items() if name in names}
    if having:
        return having
    known = [f"{s} ({dataset})" for dataset, names in slices.items() for s in names]
    there = f"there are {', '.join(known)}" if known else "they have none"
    raise InputError(
        f"--by: {name!r} is no slice of {', '.join(slices)}; {there}; a dataset is built with "
        "slices by `semigrid data build --slice COLUMN`"
    )


def slices_sheet(results: Results, by: BySlice) -> Sheet[Row]:
    """Acc@1 on each value of a slice, the largest first."""
    first = [*cell_columns(results.rows), acc1_column(results)]
    return Sheet(
        title=f"Acc@1 by {by.name}",
        columns=[*first, *slice_columns(results.rows, by)],
        rows=results.rows,
        frame=slice_frame(results, by),
        notes=[
            *_slice_notes(by, results),
            *([f"in brackets: {LEVEL:.0%} intervals"] if by.intervals else []),
            *weights_notes(results.rows),
        ],
        problems=results.problems,
        records=[
            record | {"slices": {by.name: _slice_facts(row, by)}}
            for record, row in zip(cell_records(results), results.rows, strict=True)
        ],
        kept=len(first),
        is_dim=is_unfinished,
    )


def slice_columns(rows: Sequence[Row], by: BySlice) -> list[Column[Row]]:
    """A column for each value of a slice, its header with the number of test images.

    ``north (412)``, with several datasets a line for each, ``(aprons 412)``; a number that is too
    small to rely on has a ``*``.
    """
    datasets = list(dict.fromkeys(row.cell.dataset for row in rows))

    def column(value: str) -> Column[Row]:
        header = value
        for dataset in datasets:
            images = by.images.get(dataset, {}).get(value)
            if images is not None:
                header += f"\n({dataset} {images})" if len(datasets) > 1 else f" ({images})"
                header += "*" if images < FEW_IMAGES else ""
        return Column(header, lambda row: _show(by, row, value), may_break=True)

    return [column(value) for value in by.values(datasets)]


def _show(by: BySlice, row: Row, value: str) -> str:
    """``77.50 ± 3.54 (62–88)``: mean and spread over seeds, and the interval."""
    interval = by.interval(row.cell, value)
    shown = show_scores(by.scores(row.cell, value))
    if interval is None:
        return shown
    return f"{shown} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"


def slice_frame(results: Results, by: BySlice) -> pd.DataFrame:
    """Accuracy by slice as numbers, in long form: one row per cell and value of its dataset.

    ``acc1`` is the cell's over all its test images, as in ``frame``, and ``slice_acc1`` the one on
    the ``test_images`` with this value, with its interval; a cell whose dataset lacks the slice
    has one row without.
    """
    records = []
    for row in results.rows:
        for value, of in _slice_facts(row, by).items() or [(None, {})]:
            seeds = [acc1 for acc1 in of.get("acc1_per_seed", []) if acc1 is not None]
            records.append(
                {
                    **cell_facts(row),
                    "seeds": len(row.test),
                    "acc1": row.mean("acc1"),
                    "acc1_std": row.std("acc1"),
                    "slice": by.name,
                    "value": value,
                    "test_images": of.get("images"),
                    "slice_acc1": of.get("acc1"),
                    "slice_acc1_std": of.get("acc1_std"),
                    "slice_acc1_low": of.get("acc1_low"),
                    "slice_acc1_high": of.get("acc1_high"),
                    "slice_seeds": len(seeds),
                }
            )
    return typed(pd.DataFrame.from_records(records))


def _slice_facts(row: Row, by: BySlice) -> dict[str, dict[str, Any]]:
    """By value; ``acc1_per_seed`` has None where a seed's predictions cannot be used."""
    found = {}
    for value in by.values([row.cell.dataset]):
        interval = by.interval(row.cell, value)
        found[value] = {
            "images": by.images[row.cell.dataset][value],
            "acc1_per_seed": by.acc1_per_seed(row.cell, value),
            "acc1": mean(by.scores(row.cell, value)),
            "acc1_std": std(by.scores(row.cell, value)),
            "acc1_low": None if interval is None else 100 * interval.low,
            "acc1_high": None if interval is None else 100 * interval.high,
        }
    return found


def _slice_notes(by: BySlice, results: Results) -> list[str]:
    found = few_notes(number for counts in by.images.values() for number in counts.values())
    if not by.images and not results.problems:
        found.append(f"no cell is finished yet, so there is no accuracy by {by.name}")
    return found
