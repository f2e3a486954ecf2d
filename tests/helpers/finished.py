"""A grid whose cells are finished without training: the tests say what they predict."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tests.helpers.experiments import SMALL, experiment_text
from tests.helpers.scheduling import scheduler_of
from tests.helpers.scores import alike

from semigrid.data.storage import FileFacts, open_storage
from semigrid.grid.analysis.result_set import ResultSet, read_result_set
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.ledger import Ledger, start_record
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.scheduler import Scheduler
from semigrid.trainers.evaluation.predictions import Predictions
from semigrid.trainers.layout import predictions_file
from semigrid.trainers.trial.identity import TrialSpec

GRID = [
    {"model": "vit", "labels": ["25%", "50%", "100%"]},
    {"model": "semi-vit", "labels": ["25%", "50%", "100%"]},
    {"model": "semi-vit", "labels": ["50%"], "unlabeled": ["200%", "400%"]},
]


class FinishedGrid:
    """One experiment folder, on digits; ``finish`` what is to be finished, parents first."""

    def __init__(self, folder: Path, seeds: int = 1, **changes: object):
        defaults = {"grid": GRID, "models": SMALL["models"], "search": {"trials": 1}}
        storage = str(folder / "results")
        text = experiment_text(**{**defaults, "seeds": seeds, "storage": storage, **changes})
        self.file = folder / "file.yaml"
        self.file.write_text(text)
        self.plan = Plan(load_experiment(str(self.file), text=text))
        self.storage = open_storage(self.plan.experiment.folder)
        self.ledger = Ledger(self.storage)
        self.winners: dict[tuple[str, int], TrialSpec] = {}
        dataset = next(iter(self.plan.experiment.datasets.values()))
        ids = dataset.column("test", "image_id").to_pylist()
        order = np.argsort(ids)
        self.ids = [ids[i] for i in order]
        self.labels = dataset.column("test", "label").to_numpy()[order]
        self.classes = len(dataset.manifest.classes)
        self.class_shares = dataset.manifest.class_shares
        columns = {
            name: dataset.column("test", name).to_pylist() for name in dataset.manifest.slices
        }
        self.slices = {name: [of[i] for i in order] for name, of in columns.items()}

    def search(self, cell: str) -> Search:
        return next(search for search in self.plan.searches if search.name == cell)

    def finish(self, cell: str, *seeds: int | np.ndarray, val: float = 90.0) -> list[Path]:
        """Records winners that put these images into their class, or the first so many of all.

        The images are in an order that goes round the classes, so that equal counts mean the same
        images. ``val`` is the first seed's Acc@1 on val in per cent; each further one has a point
        more. Returns the prediction files.
        """
        files = []
        search = self.search(cell)
        for seed, right in enumerate(seeds):
            if not isinstance(right, np.ndarray):
                right = self.first(right)
            predictions = self.predictions(right)
            parent = None if search.parent is None else self.winners[search.parent.name, seed].id
            teachers = [self.winners[teacher.name, seed].id for teacher in search.teachers]
            spec = self.plan.spec(search, {}, seed, parent, teachers)
            self.winners[cell, seed] = spec
            record = start_record(spec, cell)
            record.status, record.seconds, record.device_seconds = "finished", 60, {"cpu": 120.0}
            record.val = alike({"acc1": val + seed, "ce": 1.0})
            record.test = predictions.metrics(self.class_shares)
            content = predictions.encode()
            record.predictions_file = FileFacts.of(content)
            self.ledger.write(record)
            self.storage.write(f"weights/{spec.id}.safetensors", b"")
            self.storage.write(predictions_file(spec.id), content)
            files.append(Path(self.storage.location(predictions_file(spec.id))))
        return files

    def first(self, count: int) -> np.ndarray:
        """True for the first so many images, going round the classes."""
        rank = np.empty(len(self.labels), int)
        for label in range(self.classes):
            of_class = np.flatnonzero(self.labels == label)
            rank[of_class] = np.arange(len(of_class)) * self.classes + label
        return np.asarray(rank < count)

    def predictions(self, right: np.ndarray) -> Predictions:
        """Right with a probability of 0.7, wrong (the next class) with 0.6."""
        chosen = np.where(right, self.labels, (self.labels + 1) % self.classes)
        sure = np.where(right, 0.7, 0.6)
        probabilities = np.repeat((1 - sure)[:, None] / (self.classes - 1), self.classes, axis=1)
        probabilities[np.arange(len(chosen)), chosen] = sure
        return Predictions(self.ids, self.labels, probabilities, self.slices)

    def scheduler(self) -> Scheduler:
        return scheduler_of(self.plan, self.ledger.read_all(), self.ledger.has_weights)

    def results(self, only: Sequence[str] | None = None) -> ResultSet:
        return read_result_set(self.scheduler().study, self.storage, only)
