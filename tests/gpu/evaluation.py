"""The seconds of an evaluation on val, as a training waits for it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.gpu.feeding import dataset_of, from_disk
from tests.gpu.parts import Line, Setup
from tests.gpu.speed import bf16_training, recipe_of, sizes
from tests.gpu.stopwatch import new_model, resident, synchronize

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.train import train
from semigrid.trainers.options import TrainOptions

# seconds for student and teacher on 2,048 images: the first evaluation decodes them
GOALS = (10.0, 5.0)


class Evaluated(Runtime):
    """A worker that knows how long each evaluation took."""

    def __init__(self, checkpoints: Checkpoints, device: str):
        super().__init__(checkpoints, device=device)
        self.seconds: list[float] = []

    def stepped(self, step: int) -> None:
        synchronize(self.device)
        self._began = time.perf_counter()

    def progress(self, metrics: dict[str, Any]) -> None:
        """Not a report: those here are of evaluations."""

    def report(self, metrics: dict[str, Any]) -> None:
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - self._began)


def evaluation(setup: Setup) -> Iterator[Line]:
    """Student and teacher of ViT-B/16 on all val images: the first time, and the second."""
    dataset = dataset_of(setup)
    few = {"batch_size": 8, "steps": 2, "evaluations": 2}
    recipe = recipe_of("finetune", setup).model_copy(update=few)
    streams = resident("finetune", recipe, new_model(sizes(setup)[0], recipe))
    runtime = Evaluated(Checkpoints(open_storage(setup.folder / "evaluated")), setup.device)
    training = bf16_training("finetune", recipe, setup, streams, runtime=runtime)
    val = from_disk(setup, "finetune", training, dataset, TrainOptions()).validation
    streams = replace(streams, validation=val)
    training = bf16_training("finetune", recipe, setup, streams, runtime=runtime)
    train(training)
    images = dataset.rows_in("val")
    for which, found, goal in zip(("first", "second"), runtime.seconds, GOALS, strict=True):
        judged = setup.goal(f"{goal:.0f} s at most", found <= goal)
        what, values = f"{images:,} val images, {which} time", {"seconds": found}
        yield Line(what, f"{found:.2f} s", *judged, values)
