"""The prediction tables of a grid's finished cells, read once and reduced to what is asked of them.

A table of 50,000 images and 100 classes is 40 MB, and a grid has hundreds: of each only the class
chosen and its probability are kept, beside the scores.
"""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from semigrid.data.schema import Manifest
from semigrid.data.storage import FileFacts, Storage
from semigrid.grid.study.ledger import FOLDER, Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.study.state import StudyState
from semigrid.trainers.predictions import Predictions, decode_predictions
from semigrid.trainers.scores import Scores, scores
from semigrid.trainers.trial import predictions_file

READERS = 8  # files read at a time: of a bucket each is a request


@dataclass(frozen=True)
class TestSet:
    """A dataset's test images: ids, true classes (N,), the classes' names, slices by name."""

    ids: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    slices: dict[str, list[str | None]]

    __test__ = False  # pytest would take it for tests


@dataclass(frozen=True)
class Judged:
    """One seed of a cell on its test set: the class chosen (N,), its probability (N,), scores."""

    seed: int
    chosen: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    scores: Scores


@dataclass
class Measured:
    """What the predictions of finished cells say.

    ``cells`` has one entry for each seed of the winner, None where its predictions cannot be used;
    ``problems`` says which those are and what to do.
    """

    test_sets: dict[str, TestSet] = field(default_factory=dict)
    cells: dict[Cell, list[Judged | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def seeds(self, cell: Cell) -> list[Judged]:
        """Those whose predictions can be used."""
        return [judged for judged in self.cells.get(cell, []) if judged is not None]

    def right(self, cell: Cell) -> np.ndarray | None:
        """Which images each seed put into their class, (S, N); None without any seed."""
        seeds = self.seeds(cell)
        return np.stack([judged.right for judged in seeds]) if seeds else None


def measure(
    study: StudyState,
    records: Mapping[str, Record],
    storage: Storage,
    cells: Iterable[Cell] | None = None,
) -> Measured:
    """Reads the predictions of all finished cells, or of some.

    Predictions that are missing, damaged, or not those that the ledger speaks of cost their own
    seed only.
    """
    found = Measured()
    wanted = [
        (cell, seed, records[spec.id])
        for cell in (study.plan.cells if cells is None else cells)
        if study.searches[cell.name].stage == "finished"
        for seed, spec in study.searches[cell.name].by_seed.items()
    ]
    datasets = study.plan.experiment.datasets
    with ThreadPoolExecutor(READERS) as pool:
        read = pool.map(lambda each: _read(storage, each[2]), wanted)
        for (cell, seed, record), result in zip(wanted, read, strict=True):
            seeds = found.cells.setdefault(cell, [])
            try:
                if isinstance(result, ValueError):
                    raise result
                predictions, judged = result
                _fit(found.test_sets, cell.dataset, datasets[cell.dataset].manifest, predictions)
            except ValueError as error:
                seeds.append(None)
                found.problems.append(
                    f"{cell.name}, seed {seed}, is left out: "
                    f"{storage.location(predictions_file(record.id))}: {error}; to have it again, "
                    f"delete {FOLDER}/{record.id}.json and run the experiment"
                )
            else:
                seeds.append(Judged(seed, *judged))
    return found


def read_predictions(storage: Storage, record: Record) -> Predictions:
    """What the model of a measured trial said of the test images.

    Raises ``FileNotFoundError`` and, with what is wrong, ``ValueError`` where the file is not what
    the ledger speaks of.
    """
    assert record.test is not None
    content = storage.read(predictions_file(record.id))
    if record.predictions_file not in (None, FileFacts.of(content)):
        raise ValueError("damaged, it is not what was written")
    predictions = decode_predictions(content)
    acc1, in_ledger = 100 * float(predictions.right.mean()), record.test["acc1"]
    if not math.isclose(acc1, in_ledger, abs_tol=1e-6):
        raise ValueError(f"Acc@1 is {acc1:.2f} here and {in_ledger:.2f} in the ledger")
    return predictions


def _read(
    storage: Storage, record: Record
) -> tuple[Predictions, tuple[np.ndarray, np.ndarray, np.ndarray, Scores]] | ValueError:
    """A trial's predictions and what is kept of them, or what is wrong with them."""
    try:
        predictions = read_predictions(storage, record)
        found = scores(predictions.labels, predictions.probabilities)
    except FileNotFoundError:
        return ValueError("there is no such file")
    except ValueError as error:
        return error
    chosen = predictions.probabilities.argmax(axis=1).astype(np.int32)
    confidence = predictions.probabilities.max(axis=1).astype(np.float32)
    right = np.asarray(chosen == predictions.labels)
    # the probabilities are let go here, not when all files are read
    rest = Predictions(predictions.ids, predictions.labels, np.empty((0, 0)), predictions.slices)
    return rest, (chosen, confidence, right, found)


def _fit(
    test_sets: dict[str, TestSet], dataset: str, manifest: Manifest, predictions: Predictions
) -> None:
    """Takes note of a dataset's test images, or compares with those noted."""
    for name in manifest.slices:
        if name not in predictions.slices:
            raise ValueError(f"there is no column {name!r}")
    known = test_sets.get(dataset)
    if known is None:
        slices = {name: list(predictions.slices[name]) for name in manifest.slices}
        test_sets[dataset] = TestSet(predictions.ids, predictions.labels, manifest.classes, slices)
    elif known.ids != predictions.ids or not np.array_equal(known.labels, predictions.labels):
        raise ValueError(f"other test images than other predictions of {dataset}")
