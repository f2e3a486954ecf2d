"""A training whose process is killed, and the next that goes on from its checkpoint."""

import multiprocessing
import os
import signal
from collections.abc import Iterator

from tests.gpu.losses import (
    compared,
    exact_convolutions,
    losses_of,
    small_recipe,
    small_run,
    small_training,
)
from tests.gpu.parts import Line, Setup, failed_unless

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.train import train

# as shares: kernels of a GPU may add in another order each time
TOLERANCE = (2e-3, 5e-4)
# before this process touches a GPU, which no fork could use then
FORKED = multiprocessing.get_context("fork")
STEPS, EVALUATIONS, KILLED_IN = 10, 5, 7


class Killed(Runtime):
    """A worker whose process ends in a step as if its machine had gone."""

    def stepped(self, step: int) -> None:
        if step == KILLED_IN:
            os.kill(os.getpid(), signal.SIGKILL)


def resume(setup: Setup) -> Iterator[Line]:
    """Semi in fp32, killed by SIGKILL, resumed in another process, beside one undisturbed."""
    exact_convolutions()
    recipe = small_recipe("semi", setup, steps=STEPS, evaluations=EVALUATIONS)
    killed = FORKED.Process(target=_until_killed, args=(setup,))
    killed.start()
    killed.join()
    if killed.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the training was to be killed and ended with {killed.exitcode}")
    resumed = small_run("semi", recipe, setup, setup.device, setup.folder / "killed")
    expected = small_run("semi", recipe, setup, setup.device, setup.folder / "undisturbed")
    at = resumed.resumed_at[0] if resumed.resumed_at else 0
    found, right = f"step {at}, of {KILLED_IN} done", failed_unless(at > 0)
    yield Line("resumed from its checkpoint", found, "after step 0", right, {"step": at})
    what = "loss beside one undisturbed"
    yield compared(what, losses_of(resumed), losses_of(expected), TOLERANCE)


def _until_killed(setup: Setup) -> None:
    exact_convolutions()
    recipe = small_recipe("semi", setup, steps=STEPS, evaluations=EVALUATIONS)
    checkpoints = Checkpoints(open_storage(setup.folder / "killed"))
    train(small_training("semi", recipe, setup, Killed(checkpoints, device=setup.device)))
