"""Trainings that are timed by the doors that every training has: its runtime and its steps."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from tests.bench.step import batch
from tests.gpu.parts import Setup
from tests.helpers.tiny import first_rows
from torch import nn

from semigrid.data.batches import EvalBatches
from semigrid.data.catalog import open_dataset
from semigrid.data.views.render import Batch
from semigrid.grid.status.gpus import NAMES, peak
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import Stepped, find_method, published, resolve
from semigrid.trainers.models.create import create_model, input_statistics
from semigrid.trainers.options import Precision, TrainOptions
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe
from semigrid.trainers.trial.data import view_settings

CLASSES = 10
# Steps before the clock starts: compilation, allocation, the feed's first batches.
WARM_UP = 3
# Steps that are timed at least, however long they take.
LEAST = 3
ENDLESS = 10**6


def peak_of(setup: Setup) -> float | None:
    """The device's FLOP/s in bf16; None where nobody has written it down."""
    name = torch.cuda.get_device_name() if setup.device == "cuda" else ""
    return peak(name, "bf16") if name in NAMES else None


def synchronize(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Switched(Streams):
    """Streams whose batches come from the latest of several; all else is of the first."""

    sources: list[Streams] = field(default_factory=list)

    @classmethod
    def of(cls, first: Streams) -> "Switched":
        own = {each.name: getattr(first, each.name) for each in fields(first)}
        return cls(**own, sources=[first])

    def batches(self, start: int, stop: int) -> Any:
        return self.sources[-1].batches(start, stop)


class Enough(Exception):
    """The stopwatch has seen enough steps."""


class Stopwatch(Runtime):
    """A worker that times steps, and ends the training when it has seen enough.

    Nothing waits for the device but at the start and at the end.

    Attributes:
        steps, seconds: how many were timed, and how long they took together.
    """

    def start(self, seconds: float, least: int = LEAST, most: int = ENDLESS) -> None:
        """Times the steps after the next few, for so long or so many of them."""
        self._until, self._least, self._most = seconds, least, most
        self._seen, self.steps, self.seconds = 0, 0, 0.0

    def stepped(self, step: int) -> None:
        super().stepped(step)
        self._seen += 1
        if self._seen <= WARM_UP:
            if self._seen == WARM_UP:
                synchronize(self.device)
                self._began = time.perf_counter()
            return
        self.steps = self._seen - WARM_UP
        late = time.perf_counter() - self._began > self._until
        if self.steps >= self._most or (late and self.steps >= self._least):
            synchronize(self.device)
            self.seconds = time.perf_counter() - self._began
            raise Enough


class TimedTraining(Training):
    """A training that notes when the device began and ended each step."""

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self._marks: list[tuple[Any, Any]] = []

    def step(self, *args: Any, **named: Any) -> None:
        before = self._mark()
        super().step(*args, **named)
        self._marks.append((before, self._mark()))

    def _mark(self) -> Any:
        """A moment of the device's own time: it lies in the queue of its work."""
        if self.runtime.device.type != "cuda":
            return time.perf_counter()
        new_event: Any = torch.cuda.Event
        event = new_event(enable_timing=True)
        event.record()
        return event

    def idle_seconds(self, steps: int) -> float:
        """Time that the device had nothing to do between the last steps."""
        marks = self._marks[-steps - 1 :]
        pairs = [(end, start) for (_, end), (start, _) in itertools.pairwise(marks)]
        if self.runtime.device.type != "cuda":
            return float(sum(start - end for end, start in pairs))
        return float(sum(end.elapsed_time(start) for end, start in pairs)) / 1000

    def run_for(self, seconds: float, least: int = LEAST, most: int = ENDLESS) -> float:
        """Goes on for so long; returns the seconds of a step, of which some are not timed."""
        assert isinstance(self.runtime, Stopwatch)
        self._marks.clear()
        self.runtime.start(seconds, least, most)
        try:
            train(self)
        except Enough:
            return self.runtime.seconds / self.runtime.steps
        raise AssertionError("the training ended before the stopwatch")


def resolved(method: str, backbone: str, settings: dict[str, Any]) -> SteppedRecipe:
    """A published recipe without an end, whose teacher stays as it is, and the masks with it."""
    endless = {"steps": ENDLESS, "warmup_steps": 0, "base_lr": 1e-12, "min_lr": 0, "head_std": 0.5}
    recipe = resolve(published(method, backbone, endless | settings), method, ENDLESS, ENDLESS)
    assert isinstance(recipe, SteppedRecipe)
    return recipe


def new_model(backbone: str, recipe: SteppedRecipe) -> nn.Module:
    return create_model(backbone, CLASSES, recipe, {}, False, 0)


def timed_training(
    recipe: SteppedRecipe,
    method: str,
    model: nn.Module,
    streams: Streams,
    runtime: Runtime,
    *,
    precision: Precision,
    options: TrainOptions,
) -> TimedTraining:
    """A training that writes no checkpoints but at its evaluations."""
    return TimedTraining(
        recipe,
        method,
        model,
        None,
        streams,
        runtime,
        class_shares=np.full(CLASSES, 1 / CLASSES),
        seed=0,
        precision=precision,
        options=options.model_copy(update={"checkpoint_seconds": 1e9}),
    )


def resident(method: str, recipe: SteppedRecipe, model: nn.Module) -> Streams:
    """The same batch for every step, made once: what remains is all that follows."""
    page = find_method(method)
    assert isinstance(page, Stepped)
    views, size = view_settings(recipe, input_statistics(model)), recipe.img_size
    labeled = batch(recipe.batch_size, size, 0, *page.labeled_views)
    pool = None
    if isinstance(recipe, PoolRecipe):
        pool = batch(recipe.pool_batch_size, size, 1, *page.pool_views)
        pool = replace(pool, labels=torch.full_like(pool.labels, -1))
    few = first_rows(open_dataset("builtin://digits"), "val", 8)

    def always(found: Batch | None) -> Any:
        def batches(start: int, stop: int) -> Iterator[Batch]:
            assert found is not None
            return itertools.repeat(found, stop - start)

        return None if found is None else batches

    return Streams(always(labeled), always(pool), EvalBatches(few, views, 8), views)
