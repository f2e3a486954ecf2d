"""A tiny model, recipes that take seconds, and simulated ranks."""

import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from semigrid.data.batches import EvalBatches, MemoryBatches
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import Dataset, ImageTable
from semigrid.data.views.augment import ViewSettings
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import DEFAULT_OPTIONS, Training
from semigrid.trainers.methods import Stepped, find_method, published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe
from semigrid.trainers.trial.data import view_settings

VIT = "vit_tiny_patch16_224"
# no BatchNorm: a row's output does not depend on the rows beside it
VIT_ARGS: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "class_token": False,
}
LABELED_IMAGES, POOL_IMAGES, VAL_IMAGES = 40, 64, 30
TEN_CLASSES = np.full(10, 0.1)  # the digits, as they occur


def tiny_recipe(method: str, **overrides: Any) -> SteppedRecipe:
    """The published ViT recipe, resolved for a run of 8 steps on a few digits."""
    small = {
        "img_size": 16,
        "batch_size": 4,
        "steps": 8,
        "evaluations": 4,
        "warmup_steps": 2,
        "unlabeled_ratio": 2,
        "base_lr": 0.05,
        "ema_decay": 0.8,
        "crop_scale": (0.5, 1.0),
        "weak_crop_scale": (0.5, 1.0),
        # confidences on both sides of the threshold from the start
        "head_std": 0.3,
        "confidence_threshold": 0.6,
        # a few steps on a few images say nothing of collapse
        "collapse_evaluations": 0,
    }
    known = find_method(method).recipe.model_fields
    small = {name: value for name, value in small.items() if name in known}
    recipe = published(method, VIT, small | overrides)
    resolved = resolve(recipe, method, LABELED_IMAGES, POOL_IMAGES)
    assert isinstance(resolved, SteppedRecipe)
    return resolved


def tiny_model(recipe: SteppedRecipe, seed: int = 0) -> torch.nn.Module:
    return create_model(VIT, 10, recipe, VIT_ARGS, False, seed)


def tiny_beit(recipe: SteppedRecipe) -> torch.nn.Module:
    """A model whose attention takes the weight of ``qkv`` past the layer."""
    args = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return create_model("beit_base_patch16_224", 10, recipe, args, False, 0)


@lru_cache(maxsize=8)
def first_rows(dataset: Dataset, split: str, rows: int) -> ImageTable:
    return dataset.read(split, np.arange(rows))


def tiny_streams(dataset: Dataset, recipe: SteppedRecipe, method: str, seed: int = 0) -> Streams:
    """The streams of one worker, as a trial builds them, over a few digits."""
    views, page = view_settings(recipe, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))), find_method(method)
    assert isinstance(page, Stepped)
    rows = first_rows(dataset, "train", LABELED_IMAGES)
    labeled = training_batches(rows, recipe.batch_size, views, page.labeled_views, seed)
    pool = None
    if isinstance(recipe, PoolRecipe):
        table = first_rows(dataset, "pool", POOL_IMAGES)
        pool = training_batches(table, recipe.pool_batch_size, views, page.pool_views, seed)
    validation = EvalBatches(first_rows(dataset, "val", VAL_IMAGES), views, batch_size=16)
    soft_targets = made_up_targets if page.soft_targets else None
    return Streams(labeled, pool, validation, views, rows.labels, soft_targets)


def made_up_targets(ids: Sequence[str]) -> torch.Tensor:
    """Probabilities (N, 10) that depend on an image's id alone."""
    seeds = [zlib.crc32(name.encode()) for name in ids]
    rows = [torch.randn(10, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return (2 * torch.stack(rows)).softmax(dim=1)


def training_batches(
    table: ImageTable,
    batch_size: int,
    views: ViewSettings,
    names: tuple[Any, ...],
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    unit_rows: list[int] | None = None,
) -> MemoryBatches:
    order = StreamOrder(unit_rows or [len(table)], seed)
    share = Share(batch_size, rank, world_size)
    return MemoryBatches(table, order, share, views, names, seed)


class Unkept(EvalBatches):
    """As if no val images were few enough to be kept in memory."""

    KEEP_BYTES = 0


def counted(table: ImageTable) -> tuple[ImageTable, list[int]]:
    """The table, and a list that grows by a row's number whenever the row is taken to decode it."""
    taken: list[int] = []

    class Images(list[bytes]):
        def __getitem__(self, row: Any) -> Any:
            if not isinstance(row, slice):
                taken.append(row)
            return super().__getitem__(row)

    return replace(table, images=Images(table.images)), taken


def run_tiny(
    dataset: Dataset,
    method: str,
    recipe: SteppedRecipe,
    checkpoints: Checkpoints,
    *,
    on_step: Callable[[int], None] = lambda step: None,
    teacher_state: dict[str, torch.Tensor] | None = None,
    model: torch.nn.Module | None = None,
    streams: Streams | None = None,
    options: TrainOptions = DEFAULT_OPTIONS,
) -> Outcome:
    """Trains the tiny model, or goes on from its checkpoint; ``on_step`` may end it by raising."""
    return train(
        Training(
            recipe,
            method,
            tiny_model(recipe) if model is None else model,
            teacher_state,
            streams or tiny_streams(dataset, recipe, method),
            Watched(checkpoints, on_step),
            class_shares=TEN_CLASSES,
            seed=0,
            options=options,
        )
    )


class Watched(Runtime):
    """A worker that calls a function after each step."""

    def __init__(self, checkpoints: Checkpoints, on_step: Callable[[int], None]):
        super().__init__(checkpoints, device="cpu")
        self._on_step = on_step

    def stepped(self, step: int) -> None:
        self._on_step(step)


class Died(Exception):
    """A training died on purpose."""


def die_in_step(number: int) -> Callable[[int], None]:
    """An ``on_step`` that dies in this step, counted from 1."""

    def on_step(step: int) -> None:
        if step == number:
            raise Died

    return on_step


class SimulatedRank(Runtime):
    """One of N ranks that are threads of this process; it meets the others in memory."""

    def __init__(self, rank: int, world_size: int, meeting: "Meeting", checkpoints: Checkpoints):
        super().__init__(checkpoints, device="cpu")
        self.rank, self.world_size, self._meeting = rank, world_size, meeting

    def gather(self, value: Any) -> list[Any]:
        return self._meeting.gather(self.rank, value)

    def fetch(self, rows: torch.Tensor, wanted: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(self.gather(rows))[wanted[self.rank]]

    def any(self, value: bool) -> bool:
        return any(self.gather(value))


class Meeting:
    """Where simulated ranks lay down one value each and pick up all of them."""

    def __init__(self, world_size: int):
        self._values: list[Any] = [None] * world_size
        self._barrier = threading.Barrier(world_size, timeout=60)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()  # nobody lays down the next value before all have picked up this one
        return found


def on_ranks(
    world_size: int, checkpoints: Checkpoints, work: Callable[[SimulatedRank], Any]
) -> list[Any]:
    """What ``work`` returns on each of N simulated ranks, in rank order."""
    meeting = Meeting(world_size)
    ranks = [SimulatedRank(rank, world_size, meeting, checkpoints) for rank in range(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, ranks))
