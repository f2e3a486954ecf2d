"""How long steps wait for a checkpoint."""

import time
from collections.abc import Iterator

from tests.gpu.parts import Line, Setup
from tests.gpu.speed import bf16_training, recipe_of, sizes
from tests.gpu.stopwatch import WARM_UP, Stopwatch, TimedTraining, new_model, resident

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints

# seconds that steps may wait for a checkpoint of 1.4 GB
GOAL = 0.5
STEPS, SAVES_AFTER = 20, 3


class Saving(Stopwatch):
    """A stopwatch during which a checkpoint is taken, where the loop would take it."""

    training: TimedTraining
    saves = False
    call_seconds = 0.0

    def stepped(self, step: int) -> None:
        super().stepped(step)
        if self.saves and self._seen == WARM_UP + SAVES_AFTER:
            started = time.perf_counter()
            self.training.save_checkpoint()
            self.call_seconds = time.perf_counter() - started


def saving(setup: Setup) -> Iterator[Line]:
    """What steps of ViT-B/16 take longer for a checkpoint among them; the first also reserves."""
    recipe = recipe_of("finetune", setup)
    model = new_model(sizes(setup)[0], recipe)
    checkpoints = Checkpoints(open_storage(setup.folder / "saved"))
    runtime = Saving(checkpoints, device=setup.device)
    streams = resident("finetune", recipe, model)
    runtime.training = training = bf16_training("finetune", recipe, setup, streams, runtime=runtime)
    steps = 4 if setup.tiny else STEPS
    without = training.run_for(0, least=steps, most=steps) * steps
    runtime.saves = True
    for which in ("first", "second"):
        stall = training.run_for(0, least=steps, most=steps) * steps - without
        written = checkpoints.storage.size("latest.pt") or 0
        values = {"stall": stall, "call": runtime.call_seconds, "bytes": written}
        what = f"{which} checkpoint, {written / 1e9:.1f} GB"
        found = f"{stall:.2f} s, {runtime.call_seconds:.2f} s in the call"
        if which == "first":
            yield Line(what, found, values=values)
        else:
            yield Line(what, found, *setup.goal(f"{GOAL:g} s at most", stall <= GOAL), values)
