"""A finished trial's model at work: from decoded images to probabilities, without Ray."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from semigrid.data.views.augment import ViewSettings, isolated_random, make_view
from semigrid.grid.predict.images import ImageRange
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.study.winner import load_winner
from semigrid.trainers.evaluation.evaluate import predict
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.trial.data import EVALUATION_BATCH, view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place
from semigrid.trainers.trial.model import finished_model

# Bytes of the views that one process makes and passes to the process with the model at once.
BLOCK_BYTES = 16 * 2**20
# Largest task: long enough for Ray to keep up, short enough to share a few thousand images.
TASK_BYTES, TASK_IMAGES = 64 * 2**20, 8 * EVALUATION_BATCH


@dataclass(frozen=True)
class WinnerModel:
    """What a process needs in order to predict as the evaluation of a cell's winner did.

    ``weights`` is ``student`` or ``ema``.
    """

    spec: TrialSpec
    place: Place
    classes: tuple[str, ...]
    weights: str
    views: ViewSettings
    device: str
    threads: int  # of torch within an operation

    @property
    def block_images(self) -> int:
        return _images_of(BLOCK_BYTES, self.views)

    @property
    def task_images(self) -> int:
        return min(TASK_IMAGES, _images_of(TASK_BYTES, self.views))


def _images_of(size: int, views: ViewSettings) -> int:
    """Images whose views take this many bytes: a power of two of batches, as most row groups."""
    batches = size // (EVALUATION_BATCH * 3 * views.img_size**2)
    return EVALUATION_BATCH << max(0, batches.bit_length() - 1)


def winner_model(plan: Plan, cell: Cell, record: Record, folder: str, gpus: float) -> WinnerModel:
    """The model of a cell's winner. Raises ``InputError`` where its weights are damaged."""
    model, place = load_winner(plan, cell, record, folder)
    classes = tuple(plan.experiment.datasets[cell.dataset].manifest.classes)
    views = view_settings(record.spec.recipe, input_statistics(model))
    device = "cuda" if gpus else "cpu"
    threads = plan.experiment.train_of(cell.model).cpus_per_worker
    return WinnerModel(record.spec, place, classes, record.best_weights, views, device, threads)


@dataclass(frozen=True)
class ViewBlock:
    """Evaluation views of consecutive images, uint8 (N, 3, H, W).

    Where an image cannot be read, ``errors`` says why and its view is black: the batch keeps its
    size, on which the others' arithmetic depends.
    """

    ids: list[str]
    errors: list[str | None]
    views: np.ndarray


def make_views(images: ImageRange, model: WinnerModel) -> Iterator[ViewBlock]:
    """The images' views, in blocks of whole evaluation batches except for the last one."""
    side, left = model.views.img_size, images.count
    decoded = images.decoded()
    while left:
        count = min(left, model.block_images)
        block = ViewBlock([], [], np.zeros((count, 3, side, side), np.uint8))
        with isolated_random():
            for number in range(count):
                image_id, image, error = next(decoded)
                if image is not None:
                    error = _view(image, model.views, block.views[number])
                block.ids.append(image_id)
                block.errors.append(error)
        left -= count
        yield block


def _view(image: Image.Image, settings: ViewSettings, into: np.ndarray) -> str | None:
    """Makes the view in place; returns the reason where it cannot be made."""
    try:
        into[:] = make_view(image, settings, "eval", 0)
    except (OSError, ValueError, ZeroDivisionError) as error:
        return f"no view can be made of {image.width} × {image.height} pixels: {error}"
    return None


@dataclass(frozen=True)
class PredictedImages:
    """Probabilities (N, K) of consecutive images; rows of images with an error mean nothing."""

    ids: list[str]
    errors: list[str | None]
    probabilities: np.ndarray


class Predictor:
    """Holds a model on its device and classifies views, in the batches of an evaluation."""

    def __init__(self, model: WinnerModel):
        torch.set_num_threads(model.threads)
        self.model = model
        self.device = torch.device(model.device)
        classes = len(model.classes)
        self.network: Any = finished_model(model.spec, model.place, classes, model.weights)
        self.network.to(self.device).eval()

    def __call__(self, block: ViewBlock) -> PredictedImages:
        with torch.inference_mode():
            probabilities = [
                predict(
                    self.network,
                    torch.from_numpy(block.views[first : first + EVALUATION_BATCH]),
                    self.model.views,
                    self.device,
                )
                for first in range(0, len(block.ids), EVALUATION_BATCH)
            ]
        return PredictedImages(block.ids, block.errors, np.concatenate(probabilities))


def joined(blocks: list[PredictedImages]) -> PredictedImages:
    """Consecutive blocks as one."""
    return PredictedImages(
        [image_id for block in blocks for image_id in block.ids],
        [error for block in blocks for error in block.errors],
        np.concatenate([block.probabilities for block in blocks]),
    )
