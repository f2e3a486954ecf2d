"""A finished trial's model at work on images: from decoded images to probabilities, without Ray."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from semigrid.data.errors import InputError
from semigrid.data.storage import FileFacts
from semigrid.data.views.augment import ViewSettings, isolated_random, make_view
from semigrid.grid.predict.images import Rows
from semigrid.grid.study.layout import weights_file
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.study.winner import run_command
from semigrid.trainers.evaluate import predict
from semigrid.trainers.job import DamagedWeightsError, Place
from semigrid.trainers.models import input_statistics
from semigrid.trainers.trial import TrialSpec
from semigrid.trainers.trial_data import EVALUATION_BATCH, view_settings
from semigrid.trainers.trial_model import finished_model

# views that travel at once from who makes them to who has the model
BLOCK_BYTES = 16 * 2**20
# what a task makes: long enough for Ray to keep up, short enough to share a few thousand images
TASK_BYTES, TASK_IMAGES = 64 * 2**20, 8 * EVALUATION_BATCH


@dataclass(frozen=True)
class Model:
    """All that a process needs to know to predict as the evaluation of a cell's winner did."""

    spec: TrialSpec
    place: Place
    classes: tuple[str, ...]
    weights: str  # student or ema
    views: ViewSettings
    device: str
    threads: int  # of torch within an operation

    @property
    def sha256(self) -> str:
        """Of the file of the weights."""
        assert self.place.weights_sha256 is not None
        return self.place.weights_sha256

    @property
    def block_images(self) -> int:
        return _images_of(BLOCK_BYTES, self.views)

    @property
    def task_images(self) -> int:
        return min(TASK_IMAGES, _images_of(TASK_BYTES, self.views))


def _images_of(size: int, views: ViewSettings) -> int:
    """Images whose views have so many bytes: a power of two, as most row groups, of batches."""
    batches = size // (EVALUATION_BATCH * 3 * views.img_size**2)
    return EVALUATION_BATCH << max(0, batches.bit_length() - 1)


def winner_model(plan: Plan, cell: Cell, record: Record, folder: str, gpus: float) -> Model:
    """The model of a cell's winner, found whole. Raises ``InputError`` where it is not."""
    search = next(s for s in plan.searches if s.cell == cell)
    place = plan.place(search, folder)
    classes = tuple(plan.experiment.datasets[cell.dataset].manifest.classes)
    try:
        facts = record.weights_file
        place = replace(place, weights_sha256=facts.sha256 if facts else None)
        model = finished_model(record.spec, place, len(classes), record.best_weights)
        if facts is None:  # of a version that did not write it down: what they are now
            facts = FileFacts.of(place.storage.read(weights_file(record.id)))
            place = replace(place, weights_sha256=facts.sha256)
    except DamagedWeightsError as error:
        raise InputError(
            f"{error}; delete it if it is there, and have it trained again: "
            + run_command(plan.experiment, cell.name)
        ) from error
    views = view_settings(record.spec.recipe, input_statistics(model))
    device = "cuda" if gpus else "cpu"
    threads = plan.experiment.train_of(cell.model).cpus_per_worker
    return Model(record.spec, place, classes, record.best_weights, views, device, threads)


@dataclass(frozen=True)
class Views:
    """Evaluation views of consecutive images, uint8 (N, 3, H, W).

    Where an image could not be read, ``errors`` says why and its view is black: the others must
    meet the arithmetic that they would have met beside it.
    """

    ids: list[str]
    errors: list[str | None]
    views: np.ndarray


def make_views(rows: Rows, model: Model) -> Iterator[Views]:
    """The rows' views, in blocks of whole evaluation batches but for the last one."""
    side, left = model.views.img_size, rows.count
    decoded = rows.decoded()
    while left:
        count = min(left, model.block_images)
        made = Views([], [], np.zeros((count, 3, side, side), np.uint8))
        with isolated_random():
            for number in range(count):
                image_id, image, error = next(decoded)
                if image is not None:
                    error = _view(image, model.views, made.views[number])
                made.ids.append(image_id)
                made.errors.append(error)
        left -= count
        yield made


def _view(image: Image.Image, settings: ViewSettings, into: np.ndarray) -> str | None:
    """Makes the view; returns why it cannot be made of this image."""
    try:
        into[:] = make_view(image, settings, "eval", 0)
    except (OSError, ValueError, ZeroDivisionError) as error:
        return f"no view can be made of {image.width} × {image.height} pixels: {error}"
    return None


@dataclass(frozen=True)
class Answers:
    """What the model says of consecutive images; rows of ``probabilities`` (N, K) that have an
    error mean nothing."""

    ids: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    probabilities: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class Predictor:
    """Holds a model on its device and answers for views, in the batches of an evaluation."""

    def __init__(self, model: Model):
        torch.set_num_threads(model.threads)
        self.model = model
        self.device = torch.device(model.device)
        classes = len(model.classes)
        self.network: Any = finished_model(model.spec, model.place, classes, model.weights)
        self.network.to(self.device).eval()

    def __call__(self, made: Views) -> Answers:
        with torch.inference_mode():
            found = [
                predict(
                    self.network,
                    torch.from_numpy(made.views[first : first + EVALUATION_BATCH]),
                    self.model.views,
                    self.device,
                )
                for first in range(0, len(made.ids), EVALUATION_BATCH)
            ]
        return Answers(made.ids, made.errors, np.concatenate(found))


def join(parts: list[Answers]) -> Answers:
    """Consecutive answers as one."""
    return Answers(
        [i for part in parts for i in part.ids],
        [e for part in parts for e in part.errors],
        np.concatenate([part.probabilities for part in parts]),
    )
