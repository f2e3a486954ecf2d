"""Trainings of Lite0 in this process, one thread, without Ray, each a line of a JSON file.

A training is written down when it ends. Whatever ends the process, the next one does not repeat it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from tests.accuracy.build import RULE, built
from tests.accuracy.sets import SETS
from tests.accuracy.weights import BACKBONE, lite0_weights

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset
from semigrid.data.splits import label_subset
from semigrid.data.storage import FileFacts
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import weights_file
from semigrid.trainers.methods import find_method, published, resolve
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.run import run_trial

# one checkpoint, at the end: the trainings are short
OPTIONS = TrainOptions(checkpoint_seconds=10**9, stream="memory")


@dataclass(frozen=True)
class Cell:
    """A set and how many of its labelled images are trained on."""

    set: str
    labels: int


class Trainings:
    """The trainings that are done, by the identity of their trials; ``result`` does one more."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "rule" / "trainings.jsonl"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            lines = (json.loads(line) for line in self.file.read_text().splitlines())
            self.done = {line["trial"]: line for line in lines}

    def result(
        self,
        cell: Cell,
        recipe: Mapping[str, Any],
        seed: int,
        parent: Mapping[str, Any] | None = None,
        train: bool = True,
    ) -> dict[str, Any] | None:
        """What a training scored on val; it is trained now if need be and ``train`` allows.

        Args:
            recipe: the candidate's own values over the published recipe.
            parent: of ``semi``, the recipe of the fine-tuning that it starts from.
        """
        first = None if parent is None else self._spec(cell, parent, seed, None)
        spec = self._spec(cell, recipe, seed, first)
        if spec.id not in self.done and train:
            if first is not None and not (self.folder / "rule" / weights_file(first.id)).exists():
                self._train(cell, first)
            self._train(cell, spec)
            if first is not None:  # nothing starts from these weights
                (self.folder / "rule" / weights_file(spec.id)).unlink(missing_ok=True)
        return self.done.get(spec.id)

    def labeled(self, cell: Cell) -> int:
        """How many labelled images a cell trains on: fewer where the set has fewer."""
        labels = dataset_of(cell.set, self.folder).train_labels
        return len(label_subset(labels, self._fraction(cell)))

    def _fraction(self, cell: Cell) -> Fraction:
        there = len(dataset_of(cell.set, self.folder).train_labels)
        return min(Fraction(1), Fraction(cell.labels, there))

    def _spec(
        self, cell: Cell, own: Mapping[str, Any], seed: int, parent: TrialSpec | None
    ) -> TrialSpec:
        dataset, fraction = dataset_of(cell.set, self.folder), self._fraction(cell)
        pool = 0 if parent is None else dataset.manifest.pool
        method = "finetune" if parent is None else "semi"
        values = {"img_size": SETS[cell.set].pixels, "evaluations": 1, **SETS[cell.set].recipe}
        if parent is not None:
            values |= SETS[cell.set].weak
        return TrialSpec(
            dataset=dataset.manifest.fingerprint,
            labels=str(fraction),
            pool_images=pool or None,
            backbone=BACKBONE,
            backbone_args={},
            weights=f"sha256:{weights_hash(self.folder)}",
            method=method,
            method_version=find_method(method).version,
            recipe=resolve(
                published(method, BACKBONE, {**values, **own}), method, self.labeled(cell), pool
            ),
            precision="fp32",
            seed=seed,
            parent=None if parent is None else parent.id,
        )

    def _train(self, cell: Cell, spec: TrialSpec) -> None:
        place = Place(
            dataset_uri=str(built(cell.set, self.folder, RULE)),
            folder=str(self.folder / "rule"),
            weights_uri=str(weights(self.folder)),
        )
        job = TrialJob(spec=spec, place=place, options=OPTIONS)
        checkpoints = Checkpoints(job.checkpoints)
        started = time.process_time()
        outcome = run_trial(job, Runtime(checkpoints, device="cpu"))
        checkpoints.delete()
        assert isinstance(spec.recipe, SteppedRecipe)
        recipe, last = spec.recipe, outcome.history[-1] if outcome.history else {}
        line = {
            "trial": spec.id, "set": cell.set, "labels": cell.labels, "method": spec.method,
            "batch": recipe.batch_size, "steps": recipe.total_steps, "base_lr": recipe.base_lr,
            "ema_decay": recipe.ema_decay, "seed": spec.seed, "status": outcome.status,
            "balanced": outcome.best_metrics.get("acc1"),
            "plain": outcome.best_metrics.get("acc1_natural"),
            "student": last.get("student_acc1"), "ema": last.get("ema_acc1"),
            "mask_rate": last.get("mask_rate"), "parent": spec.parent,
            "seconds": round(time.process_time() - started, 1),
        }  # fmt: skip
        with self.file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        self.done[spec.id] = line


@cache
def dataset_of(name: str, folder: Path) -> Dataset:
    return open_dataset(str(built(name, folder, RULE)))


@cache
def weights(folder: Path) -> Path:
    return lite0_weights(folder, folder / "downloads")


@cache
def weights_hash(folder: Path) -> str:
    return FileFacts.of(weights(folder).read_bytes()).sha256
