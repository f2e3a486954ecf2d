"""The prediction tables of finished cells, read once and reduced to what the analysis needs.

A table of 50,000 images and 100 classes is 40 MB, and a grid has hundreds: of each only the chosen
class and its probability are kept, beside the scores.
"""

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from semigrid.data.schema import Manifest
from semigrid.data.storage import FileFacts, Storage
from semigrid.grid.study.layout import record_file
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.study.state import StudyState
from semigrid.trainers.evaluation.predictions import Predictions, decode_predictions
from semigrid.trainers.evaluation.scores import Scores, scores
from semigrid.trainers.layout import predictions_file

READERS = 8  # files read at a time; in a bucket each one is a request


@dataclass(frozen=True)
class TestSet:
    """A dataset's test images: ids, true classes (N,), class names, and each slice's values."""

    ids: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    slices: dict[str, list[str | None]]

    __test__ = False  # pytest would take it for tests


@dataclass(frozen=True)
class SeedPredictions:
    """What a cell predicts for its test set on one seed, with its scores.

    ``chosen`` (N,) are the classes it chose, ``confidence`` (N,) their probabilities, and
    ``right`` (N,) tells which are the true ones.
    """

    chosen: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    scores: Scores


@dataclass
class StudyPredictions:
    """The predictions of a study's finished cells.

    ``cells`` has one entry for each seed of the winner, None where its predictions cannot be used;
    ``problems`` says which those are and what to do.
    """

    test_sets: dict[str, TestSet] = field(default_factory=dict)
    cells: dict[Cell, list[SeedPredictions | None]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_study_predictions(
    study: StudyState, records: Mapping[str, Record], storage: Storage, cells: Iterable[Cell]
) -> StudyPredictions:
    """Reads the predictions of those of the cells that are finished.

    Predictions that are missing, damaged, or not those that the ledger describes cost their own
    seed only.
    """
    predictions = StudyPredictions()
    datasets = study.plan.experiment.datasets
    wanted = [
        (cell, seed, records[spec.id])
        for cell in cells
        if study.searches[cell.name].stage == "finished"
        for seed, spec in study.searches[cell.name].by_seed.items()
    ]
    manifests = [datasets[cell.dataset].manifest for cell, _, _ in wanted]
    with ThreadPoolExecutor(READERS) as pool:
        outcomes = pool.map(partial(_try_reading, storage), (job[2] for job in wanted), manifests)
        for (cell, seed, record), outcome in zip(wanted, outcomes, strict=True):
            seeds = predictions.cells.setdefault(cell, [])
            try:
                if isinstance(outcome, ValueError):
                    raise outcome
                test_set, of_seed = outcome
                kept = predictions.test_sets.setdefault(cell.dataset, test_set)
                if kept.ids != test_set.ids or not np.array_equal(kept.labels, test_set.labels):
                    raise ValueError(f"other test images than other predictions of {cell.dataset}")
            except ValueError as error:
                seeds.append(None)
                predictions.problems.append(
                    f"{cell.name}, seed {seed}, is left out: "
                    f"{storage.location(predictions_file(record.id))}: {error}; to have it again, "
                    f"delete {record_file(record.id)} and run the experiment"
                )
            else:
                seeds.append(of_seed)
    return predictions


def read_predictions(storage: Storage, record: Record) -> Predictions:
    """The predictions of a trial that was evaluated on test.

    Raises ``FileNotFoundError``, and ``ValueError`` with what is wrong where the file is not the
    one that the ledger describes.
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


def _try_reading(
    storage: Storage, record: Record, manifest: Manifest
) -> tuple[TestSet, SeedPredictions] | ValueError:
    """What is kept of a trial's predictions, or what is wrong with them.

    The probabilities are freed here, not when all files are read.
    """
    try:
        predictions = read_predictions(storage, record)
        seed_scores = scores(predictions.labels, predictions.probabilities)
        slices = {name: list(predictions.slices[name]) for name in manifest.slices}
    except FileNotFoundError:
        return ValueError("there is no such file")
    except KeyError as error:
        return ValueError(f"there is no column {error}")
    except ValueError as error:
        return error
    chosen = predictions.probabilities.argmax(axis=1).astype(np.int32)
    confidence = predictions.probabilities.max(axis=1).astype(np.float32)
    right = np.asarray(chosen == predictions.labels)
    test_set = TestSet(predictions.ids, predictions.labels, manifest.classes, slices)
    return test_set, SeedPredictions(chosen, confidence, right, seed_scores)
