"""Acc@1 by slice: a score for each value of a column, from the winners' predictions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from semigrid.data.errors import InputError
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Interval, accuracy_interval
from semigrid.grid.study.plan import Cell, Plan

NO_VALUE = "—"  # the value under which images without one are counted


class Tally(NamedTuple):
    """How many test images there are, and how many a model put into their class."""

    images: int
    right: int

    @property
    def acc1(self) -> float:
        """In per cent."""
        return 100 * self.right / self.images


@dataclass(frozen=True)
class SliceResult:
    """A cell's result on the test images with one value of a slice.

    ``acc1_per_seed`` is in per cent, None for a seed whose predictions cannot be used; a cell
    without predictions has no seeds and no ``interval`` (of the share).
    """

    images: int
    acc1_per_seed: Sequence[float | None]
    interval: Interval | None

    @property
    def acc1(self) -> list[float]:
        """For the seeds that have one."""
        return [acc1 for acc1 in self.acc1_per_seed if acc1 is not None]


@dataclass(frozen=True)
class BySlice:
    """What a study's cells score on the values of one slice.

    ``images`` counts test images by dataset and value; ``results`` has, by cell and value, those
    of the cells whose dataset is counted.
    """

    name: str
    images: Mapping[str, Mapping[str, int]]
    results: Mapping[Cell, Mapping[str, SliceResult]]

    def values(self, datasets: Sequence[str]) -> list[str]:
        """The values in these datasets, those with most test images first, ``—`` last."""
        total: Counter[str] = Counter()
        for dataset in datasets:
            total.update(self.images.get(dataset, {}))
        return sorted(total, key=lambda value: (value == NO_VALUE, -total[value], value))

    def of_row(self, row: CellResult) -> dict[str, SliceResult]:
        """A cell's results in the order of ``values``; empty where its dataset has none."""
        own = self.results.get(row.cell, {})
        return {value: own[value] for value in self.values([row.cell.dataset]) if value in own}


def by_slice(results: ResultSet, name: str) -> BySlice:
    """Counts every row whose dataset has the slice and any predictions.

    Raises ``InputError`` when no dataset has it.
    """
    having = _datasets_with(results.plan, name)
    named = {
        dataset: _named(test_set.slices[name])
        for dataset, test_set in results.test_sets.items()
        if dataset in having
    }
    images = {dataset: dict(Counter(values.tolist())) for dataset, values in named.items()}
    by_cell = {
        row.cell: {
            value: _slice_result(row, named[row.cell.dataset] == value)
            for value in images[row.cell.dataset]
        }
        for row in results.rows
        if row.cell.dataset in named
    }
    return BySlice(name, images, by_cell)


def _slice_result(row: CellResult, chosen: np.ndarray) -> SliceResult:
    """A row's result on the images for which ``chosen``, (N,), is true."""
    images = int(chosen.sum())
    acc1 = [
        None if seed is None else Tally(images, int(seed.right[chosen].sum())).acc1
        for seed in row.seeds
    ]
    interval = accuracy_interval(row.right[:, chosen]) if row.has_predictions else None
    return SliceResult(images, acc1, interval)


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
