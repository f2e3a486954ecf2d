"""One small step of a training, on this machine's CPU: what fails here fails in every trial."""

import contextlib
import io
import pickle

import numpy as np
import torch
from PIL import Image
from torch import nn

from semigrid.data.batches import EvalBatches, MemoryBatches
from semigrid.data.errors import InputError
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import ImageTable
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import ViewName, ViewSettings
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.health import HopelessError
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import Stepped, find_method
from semigrid.trainers.methods.step import MethodState
from semigrid.trainers.recipe import SteppedRecipe

# Images of each kind in a rehearsed step, where a worker's own steps have no fewer.
IMAGES = 2


class _NoCheckpoints(Checkpoints):
    def __init__(self) -> None:
        super().__init__(open_storage("."))

    def load(self) -> None:
        return None

    def load_micro_batch(self) -> None:
        return None


def rehearsed(recipe: SteppedRecipe, method: str, workers: int) -> SteppedRecipe:
    """The recipe of a step with as few images as show what a worker's steps would.

    Settings that only change numbers have one value, so that equal recipes are rehearsed once.
    """
    share = max(1, recipe.batch_size // workers)
    page = find_method(method)
    assert isinstance(page, Stepped)
    few = {"batch_size": min(share, IMAGES), "unlabeled_ratio": 1, **page.rehearsed}
    numbers = {
        "base_lr": 1e-4,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "logit_adjustment": 0.0,
        "ema_decay": 0.5,
    }
    update = {**few, **numbers, "steps": 2, "warmup_steps": 0}
    known = type(recipe).model_fields
    return recipe.model_copy(update={n: value for n, value in update.items() if n in known})


def rehearse(
    model: nn.Module,
    recipe: SteppedRecipe,
    method: str,
    views: ViewSettings,
    num_classes: int,
    with_pool: bool,
) -> None:
    """Takes the first step of a training and makes an evaluation: all that a method is asked for.

    The model's weights change. Raises whatever the model, the method or the libraries raise,
    ``BypassedError`` for an adapter of layers that learn nothing, and ``InputError`` for a state of
    the method that no checkpoint can hold.

    Args:
        recipe: from ``rehearsed``.
    """
    picture = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(picture, "png")
    content = [picture.getvalue()] * IMAGES
    labels = np.arange(IMAGES) % num_classes
    names = [str(number) for number in range(IMAGES)]
    table = ImageTable(names, content, labels)

    def batches(*of: ViewName) -> MemoryBatches:
        share = Share(recipe.batch_size, 0, 1)
        return MemoryBatches(table, StreamOrder([IMAGES], 0), share, views, of, 0)

    page = find_method(method)
    assert isinstance(page, Stepped)
    pool = batches(*page.pool_views) if with_pool else None
    labeled = batches(*page.labeled_views)
    evenly = torch.full((IMAGES, num_classes), 1 / num_classes)
    soft = (lambda ids: evenly[: len(ids)]) if page.soft_targets else None
    streams = Streams(labeled, pool, EvalBatches(table, views, IMAGES), views, soft_targets=soft)
    with torch.random.fork_rng(devices=[]):
        training = Training(
            recipe,
            method,
            model,
            None,
            streams,
            Runtime(_NoCheckpoints(), device="cpu"),
            class_shares=np.ones(num_classes),  # no scores are looked at
            seed=0,
        )
        with contextlib.closing(training.feed.steps(0, 1)) as steps:
            training.step(next(steps))
        if training.state is not None:
            _check_state(method, training.state)
        training.outcome.step = 1
        # what it says of two images does not matter, but that it can be said
        with contextlib.suppress(HopelessError):
            training.assess()
        page.pool_unused(training.outcome.history)


def _check_state(method: str, state: MethodState) -> None:
    """Takes a method's state through a checkpoint."""
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"method {method}: what the state_dict of its state returns cannot be read back from a "
            "checkpoint: let it be tensors, numbers, text, lists and dicts (and float(x) of a "
            "number x of numpy)"
        ) from error
    state.load_state_dict(saved)
