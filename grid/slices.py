"""Acc@1 by slice: from the winners' prediction tables to a score for each value of a column."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.errors import InputError
from data.storage import Storage
from grid.ledger import FOLDER, Record
from grid.plan import Cell, Plan
from grid.scheduler import Scheduler
from trainers.predictions import Predictions, decode_predictions
from trainers.trial import TrialSpec, predictions_file

FEW_IMAGES = 30  # one image more or less right moves the score of fewer by over 3 points
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
    ``problems`` says which those are, and what to do.
    """

    name: str
    images: dict[str, dict[str, int]]
    tallies: dict[Cell, list[dict[str, Tally] | None]]
    problems: list[str]

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


def by_slice(
    scheduler: Scheduler, records: dict[str, Record], storage: Storage, name: str
) -> BySlice:
    """Reads the predictions of every finished cell whose dataset has the slice.

    Predictions that cannot be used cost their own seed only. Raises ``InputError`` when no
    dataset has the slice.
    """
    having = _datasets_with(scheduler.plan, name)
    found = BySlice(name, {}, {}, [])
    for cell in scheduler.plan.cells:
        state = scheduler.states[cell.name]
        if state.state != "finished" or cell.dataset not in having:
            continue
        found.tallies[cell] = []
        for seed, spec in state.by_seed.items():
            try:
                tallies = _read(storage, spec, records[spec.id], name)
                counts = {value: of.images for value, of in tallies.items()}
                if found.images.setdefault(cell.dataset, counts) != counts:
                    raise ValueError(f"other test images than other predictions of {cell.dataset}")
            except ValueError as error:
                found.tallies[cell].append(None)
                found.problems.append(
                    f"{cell.name}, seed {seed}, is left out: "
                    f"{storage.path(predictions_file(spec.id))}: {error}; to have it again, "
                    f"delete {FOLDER}/{spec.id}.json and run the experiment"
                )
            else:
                found.tallies[cell].append(tallies)
    return found


def tally(predictions: Predictions, name: str) -> dict[str, Tally]:
    """Counts predictions by the values of a slice; images without one count under ``—``."""
    right = predictions.right
    values = np.array([value or NO_VALUE for value in predictions.slices[name]])
    return {
        str(value): Tally(int((values == value).sum()), int(right[values == value].sum()))
        for value in np.unique(values)
    }


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


def _read(storage: Storage, spec: TrialSpec, record: Record, name: str) -> dict[str, Tally]:
    """A trial's tallies. Raises ``ValueError`` with what is wrong with its predictions."""
    try:
        predictions = decode_predictions(storage.read(predictions_file(spec.id)))
    except FileNotFoundError as error:
        raise ValueError("there is no such file") from error
    if name not in predictions.slices:
        raise ValueError(f"there is no column {name!r}")
    acc1 = predictions.metrics()["acc1"]
    assert record.test is not None  # the cell is finished
    if not math.isclose(acc1, record.test["acc1"], abs_tol=1e-6):
        raise ValueError(f"Acc@1 is {acc1:.2f} here and {record.test['acc1']:.2f} in the ledger")
    return tally(predictions, name)
