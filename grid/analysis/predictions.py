"""The prediction tables of finished cells, read once and reduced to what the analysis needs.

A table of 50,000 images and 100 classes is 40 MB, and a grid has hundreds: of each only the chosen
class and its probability are kept, beside the scores.
"""

import math
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from semigrid.data.schema import Manifest
from semigrid.data.storage import FileFacts, Storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.grid.study.layout import record_file
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell
from semigrid.grid.study.state import StudyState
from semigrid.trainers.evaluation.predictions import (
    Predictions,
    decode_predictions,
    most_bytes,
)
from semigrid.trainers.evaluation.scores import Scores, in_top_five, scores
from semigrid.trainers.layout import predictions_file

READERS = 8  # files read at a time; in a bucket each one is a request


@dataclass(frozen=True)
class TestSet:
    """A dataset's test images: ids, true classes (N,), class names, and each slice's values.

    ``class_shares`` (K,) are the natural ones, among all labelled images.
    """

    ids: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    slices: dict[str, list[str | None]]
    class_shares: np.ndarray


@dataclass(frozen=True)
class SeedPredictions:
    """What a cell predicts for its test set on one seed, with its scores.

    ``chosen`` (N,) are the classes it chose, ``confidence`` (N,) their probabilities, and
    ``right`` (N,) tells which are the true ones, ``among_five`` (N,) whether the true one is among
    the five most probable. ``natural`` is both, (2, N), where classes have their natural shares:
    the same, unless the model was trained with a logit adjustment.
    """

    chosen: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    among_five: np.ndarray
    natural: np.ndarray
    scores: Scores


def read_study_predictions(
    study: StudyState, storage: Storage, cells: Iterable[Cell]
) -> tuple[dict[str, TestSet], dict[Cell, list[SeedPredictions | None]], list[str]]:
    """Reads the predictions of those of the cells that are finished.

    Predictions that are missing, damaged, or not those that the ledger describes cost their own
    seed only.

    Returns:
        test sets by dataset, an entry for each seed of a cell's winner, None where its predictions
        cannot be used, and which those are and what to do.
    """
    test_sets: dict[str, TestSet] = {}
    by_cell: dict[Cell, list[SeedPredictions | None]] = {}
    problems = []
    datasets = study.plan.experiment.datasets
    with ThreadPoolExecutor(READERS) as pool, ExitStack() as stack:
        # an error, or Ctrl-C, does not wait for all other files first
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        readings = deque(
            (cell, seed, spec.id, pool.submit(_read, storage, study.records[spec.id], manifest))
            for cell in cells
            if study.searches[cell.name].stage == "finished"
            for manifest in [datasets[cell.dataset].manifest]
            for seed, spec in study.searches[cell.name].by_seed.items()
        )
        while readings:  # each is freed before the next one
            cell, seed, trial_id, reading = readings.popleft()
            of_seed = None
            try:
                test_set, predicted = reading.result()
                kept = test_sets.setdefault(cell.dataset, test_set)
                if kept.ids != test_set.ids or not np.array_equal(kept.labels, test_set.labels):
                    raise ValueError(f"other test images than other predictions of {cell.dataset}")
                of_seed = predicted
            except ValueError as error:
                problems.append(
                    f"{cell.name}, seed {seed}, is left out: "
                    f"{storage.location(predictions_file(trial_id))}: {error}; to have it again, "
                    f"delete {record_file(trial_id)} and run the experiment"
                )
            by_cell.setdefault(cell, []).append(of_seed)
    return test_sets, by_cell, problems


def read_predictions(storage: Storage, record: Record, manifest: Manifest) -> Predictions:
    """The predictions of a trial that was evaluated on the test images of a dataset.

    Raises ``FileNotFoundError``, and ``ValueError`` with what is wrong where the file is not the
    one that the ledger describes, or no such table.
    """
    assert record.test is not None
    images, classes = sum(manifest.counts["test"].values()), len(manifest.classes)
    try:
        content = storage.read(predictions_file(record.id), most_bytes(images, classes))
    except (UnusableFileError, IsADirectoryError) as error:
        raise ValueError(f"not a table of {images:,} test images: {error}") from error
    if record.predictions_file not in (None, FileFacts.of(content)):
        raise ValueError("damaged, it is not what was written")
    predictions = decode_predictions(content, images, classes)
    counted = np.bincount(predictions.labels, minlength=classes).tolist()
    if counted != [manifest.counts["test"][name] for name in manifest.classes]:
        raise ValueError("its classes have other numbers of images than those of the dataset")
    names = {"acc1": "Acc@1", "acc5": "Acc@5", "ce": "cross-entropy"}
    tau = record.spec.logit_adjustment
    for name, here in predictions.metrics(manifest.class_shares, tau).items():
        in_ledger = record.test[name]
        if not math.isclose(here, in_ledger, abs_tol=1e-6):
            score, _, natural = name.partition("_")
            what = f"natural {names[score]}" if natural else names[score]
            raise ValueError(f"{what} is {here:.5g} here and {in_ledger:.5g} in the ledger")
    return predictions


def reduced(
    predictions: Predictions, class_shares: np.ndarray, tau: float = 0.0
) -> SeedPredictions:
    """What the analysis needs of a trial's predictions; the arguments are those of ``scores``."""
    natural = predictions.natural(class_shares, tau)
    return SeedPredictions(
        chosen=predictions.probabilities.argmax(axis=1).astype(np.int32),
        confidence=predictions.probabilities.max(axis=1).astype(np.float32),
        right=predictions.right,
        among_five=in_top_five(predictions.labels, predictions.probabilities),
        natural=np.stack([natural.right, in_top_five(natural.labels, natural.probabilities)]),
        scores=scores(predictions.labels, predictions.probabilities, class_shares, tau),
    )


def _read(storage: Storage, record: Record, manifest: Manifest) -> tuple[TestSet, SeedPredictions]:
    """What is kept of a trial's predictions; raises ``ValueError`` with what is wrong with them.

    The probabilities are freed here, not when all files are read.
    """
    try:
        predictions = read_predictions(storage, record, manifest)
        slices = {name: list(predictions.slices[name]) for name in manifest.slices}
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except KeyError as error:
        raise ValueError(f"there is no column {error}") from None
    test_set = TestSet(
        predictions.ids, predictions.labels, manifest.classes, slices, manifest.class_shares
    )
    tau = record.spec.logit_adjustment
    return test_set, reduced(predictions, manifest.class_shares, tau)
