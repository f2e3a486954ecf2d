"""The time of one ``semi`` step, beside that of the plain transcription in ``plain``."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tests.bench.plain import PlainSemi

from semigrid.data.batches import EvalBatches
from semigrid.data.schema import ImageTable
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import ViewName, ViewSettings, draw_erasure
from semigrid.data.views.render import Batch
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.methods.semi import SEMI, SemiRecipe
from semigrid.trainers.methods.step import StepContext
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import Precision

CLASSES, RATIO = 10, 5


def images(count: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def batch(count: int, size: int, seed: int, *views: ViewName) -> Batch:
    return Batch(
        ids=[str(i) for i in range(count)],
        labels=torch.arange(count) % CLASSES,
        views={view: images(count, size, seed + i) for i, view in enumerate(views)},
        erasures=torch.tensor([draw_erasure(ViewSettings(img_size=size), i) for i in range(count)]),
        broken_by_row=[[]] * count,
    )


def _no_batches(start: int, stop: int) -> Iterator[Batch]:
    return iter(())


class Steps:
    """A training and the plain one from the same weights, on the same images."""

    def __init__(self, backbone: str, size: int, labeled: int, device: str, precision: Precision):
        self.device = device
        # a rate so low that the teacher, and with it the masks, stay as they are
        settings = {"img_size": size, "batch_size": labeled, "steps": 10**6, "base_lr": 1e-12}
        settings |= {"min_lr": 0, "warmup_steps": 0, "unlabeled_ratio": RATIO, "head_std": 0.5}
        recipe = resolve(published("semi", backbone, settings), "semi", labeled, 1)
        assert isinstance(recipe, SemiRecipe)
        self.recipe = recipe
        self.model = create_model(backbone, CLASSES, self.recipe, {}, False, 0)
        self.views = ViewSettings(img_size=size)
        self.precision = precision
        self.labeled = batch(labeled, size, 0, "strong")
        self.pool = batch(labeled * RATIO, size, 1, "weak", "strong")

    def ours(self, recipe: SemiRecipe) -> tuple[Callable[[], None], Training]:
        nothing = ImageTable([], [], np.zeros(0, dtype=np.int64))
        val = EvalBatches(nothing, self.views, 1)
        streams = Streams(_no_batches, _no_batches, val, self.views)
        runtime = Runtime(Checkpoints(open_storage(tempfile.mkdtemp())), device=self.device)
        model = copy.deepcopy(self.model)
        training = Training(
            recipe,
            "semi",
            model,
            None,
            streams,
            runtime,
            class_shares=np.ones(CLASSES),
            seed=0,
            precision=self.precision,
        )

        def step() -> None:
            training.step(training.feed.step(0, self.labeled, self.pool))
            self.wait()

        return step, training

    def plain(self, recipe: SemiRecipe) -> Callable[[], None]:
        model = copy.deepcopy(self.model)
        plain = PlainSemi(model, recipe, self.views, self.device, self.precision)
        views = self.pool.views

        def step() -> None:
            x, y = self.labeled.views["strong"], self.labeled.labels
            plain.step(x, y, views["weak"], views["strong"])
            self.wait()

        return step

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def at_mask_rate(self, rate: float) -> SemiRecipe:
        """The recipe whose threshold keeps this share of the mixed images in step 0."""
        _, training = self.ours(self.recipe)
        inputs = training.feed.step(0, self.labeled, self.pool).input
        assert inputs.pool is not None
        logits = training.teach(inputs.pool["weak"])

        def at(threshold: float) -> tuple[float, SemiRecipe]:
            recipe = self.recipe.model_copy(update={"confidence_threshold": threshold})
            context: StepContext[Any] = replace(
                training.context, recipe=recipe, teacher=lambda weak: logits
            )
            targets = SEMI.step_targets(inputs, context)
            return abs(float(targets.averages["mask_rate"]) - rate), recipe

        confidences = logits.float().softmax(dim=1).max(dim=1).values.tolist()
        return min((at(p) for p in [0.0, *confidences]), key=lambda found: found[0])[1]


def fastest(steps: list[Callable[[], None]], repeats: int) -> list[float]:
    """Seconds of each step at its fastest; they take turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 1):
        for step, taken in zip(steps, times, strict=True):
            started = time.perf_counter()
            step()
            if turn:  # the first warms up
                taken.append(time.perf_counter() - started)
    return [min(taken) for taken in times]


# seconds of ours over those of the plain step, at most
GOALS = {1.0: 1.02, 0.5: 0.72, 0.2: 0.55}


def semi_steps(device: str) -> Iterator[tuple[str, float, float, float]]:
    """What, seconds of ours, of the plain one, and the goal of their ratio, for each mask rate."""
    labeled = 4 if device == "cpu" else 64
    precision: Precision = "fp32" if device == "cpu" else "bf16"
    steps = Steps("vit_small_patch16_224", 224, labeled, device, precision)
    for rate, goal in GOALS.items():
        recipe = steps.at_mask_rate(rate)
        ours, training = steps.ours(recipe)
        mine, theirs = fastest([ours, steps.plain(recipe)], repeats=4)
        found = training.averages.of_this_rank("mask_rate")
        name = f"{labeled} + {labeled * RATIO} images, {precision}, mask rate {found:.0%}"
        yield name, mine, theirs, goal
