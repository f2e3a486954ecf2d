"""Acc@1 by slice: a score for each value of a column, from the winners' predictions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semigrid.data.errors import InputError
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Interval, accuracy_interval
from semigrid.grid.study.plan import Cell, Plan

NO_VALUE = "—"  # the value under which images without one are counted


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
        if test_set is None or row.cell.dataset not in having:
            by_cell[row.cell] = {}
            continue
        named = _named(test_set.slices[name])
        images = Counter(named.tolist())
        by_cell[row.cell] = {
            value: _slice_result(row, named == value) for value in largest_first(images)
        }
    return by_cell


def largest_first(images: Mapping[str, int]) -> list[str]:
    """Values of a slice by their numbers of images, ``—`` last."""
    return sorted(images, key=lambda value: (value == NO_VALUE, -images[value], value))


def _slice_result(row: CellResult, chosen: np.ndarray) -> SliceResult:
    """A row's result on the images for which ``chosen``, (N,), is true."""
    images = int(chosen.sum())
    acc1 = [
        None if seed is None else 100 * int(seed.right[chosen].sum()) / images for seed in row.seeds
    ]
    interval = accuracy_interval(row.right[:, chosen]) if row.has_predictions else None
    return SliceResult(images, acc1, interval)


def tally(values: Sequence[str | None], right: np.ndarray) -> dict[str, tuple[int, int]]:
    """Numbers of images and of right ones by value, the largest first, those without one last."""
    named = _named(values)
    images = Counter(named.tolist())
    return {
        value: (images[value], int(right[named == value].sum())) for value in largest_first(images)
    }


def _named(values: Sequence[str | None]) -> np.ndarray:
    return np.array([value or NO_VALUE for value in values])


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
