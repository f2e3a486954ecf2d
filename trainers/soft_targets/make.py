"""Makes a teacher's soft targets: its probabilities for a view of each image of the pool."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch

from semigrid.data.ranges import Block, make_views
from semigrid.data.schema import Dataset
from semigrid.data.splits import label_subset
from semigrid.data.storage import Storage
from semigrid.trainers.evaluation.scores import natural_view
from semigrid.trainers.execution.runtime import device_kind
from semigrid.trainers.features.extract import fill
from semigrid.trainers.features.store import ABOUT, Part, PartStore
from semigrid.trainers.layout import soft_targets_folder
from semigrid.trainers.loop.seeds import step_seed
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.data import EVALUATION_BATCH, dataset_of, view_settings
from semigrid.trainers.trial.inference import FinishedModel
from semigrid.trainers.trial.job import TrialJob
from semigrid.trainers.trial.model import finished_model


@dataclass(frozen=True)
class Answers(Block):
    """What a teacher says of consecutive images, and on which kind of device it says so."""

    device_kind: str


@dataclass(frozen=True)
class Teacher(FinishedModel):
    """A finished trial that answers weak views, which depend on its seed and the image alone.

    One without steps answers evaluation views: its head was fitted to these, and was shown no crop.

    Attributes:
        label_shares: the classes' shares among the labels that it was trained on, (K,).
    """

    label_shares: np.ndarray

    @cached_property
    def seed(self) -> int | None:
        """Of the weak views; they are none of those that it was trained on."""
        if not isinstance(self.spec.recipe, SteppedRecipe):
            return None
        return step_seed(self.spec.seed, 0, "soft targets")

    def answers(self, views: Block) -> Answers:
        """Probabilities (N, K) of what was trained: with the logit adjustment, where it has one."""
        predicted = self.predict(views)
        tau = self.spec.logit_adjustment
        rows = natural_view(predicted.rows, self.label_shares, tau)
        kind = device_kind(torch.device(self.device))
        return Answers(predicted.ids, predicted.errors, rows, kind)


# Yields a teacher's answers for the images of some parts, as ``fill`` wants them.
Ask = Callable[[Teacher, Sequence[Part]], Iterator[Answers]]


def in_this_process(teacher: Teacher, parts: Sequence[Part]) -> Iterator[Answers]:
    """The answers batch after batch, without Ray."""
    for part in parts:
        images = part.images.read()
        for start in range(0, images.count, EVALUATION_BATCH):
            batch = images.cut(start, start + EVALUATION_BATCH)
            yield teacher.answers(make_views(batch, teacher.views, teacher.seed))


def make_soft_targets(
    job: TrialJob,
    weights: str,
    device: str,
    ask: Ask = in_this_process,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Writes the answers of a job's trial for ``job.images`` of its pool that are not there yet.

    Returns the number of files that they are in. Raises ``DamagedWeightsError`` if the trial's
    weights are not as they were written.

    Args:
        weights: which network answers, ``student`` or ``ema``.
        progress: receives the number of images that are answered, and of all.
    """
    spec, place, dataset = job.spec, job.place, dataset_of(job)
    model = finished_model(spec, place, dataset.num_classes, weights)
    views = view_settings(spec.recipe, input_statistics(model))
    labels = dataset.train_labels[label_subset(dataset.train_labels, Fraction(spec.labels))]
    counts = np.bincount(labels, minlength=dataset.num_classes).clip(min=1)
    threads = job.options.cpus_per_worker
    how = (dataset.num_classes, weights, views, device, threads)
    teacher = Teacher(spec, place, *how, counts / counts.sum())
    about = {
        "trial": spec.id,
        "weights": weights,
        "sha256": place.weights_sha256,
        "dataset": spec.dataset,
    }
    store = soft_target_store(place.storage, spec.id, dataset, job.images, about)
    if store.storage.exists(ABOUT) and json.loads(store.storage.read(ABOUT)) != about:
        place.storage.delete(soft_targets_folder(spec.id))  # of a training that was lost
    fill(store, ["pool"], lambda parts: ask(teacher, parts), progress)
    return len(store.parts(["pool"]))


def soft_target_store(
    storage: Storage,
    trial_id: str,
    dataset: Dataset,
    images: int,
    about: dict[str, str | None] | None = None,
) -> PartStore:
    """Where a run's folder has a trial's answers for the first images of the pool."""
    folder = storage.folder(soft_targets_folder(trial_id))
    return PartStore(folder, dataset, about or {}, "probabilities", images)
