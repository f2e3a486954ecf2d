"""One worker through Ray Train: NCCL on a GPU, gloo on a CPU."""

from collections.abc import Iterator
from dataclasses import replace

from tests.bench.stream import running_ray
from tests.gpu.losses import compared, exact_convolutions, losses_of
from tests.gpu.parts import Line, Setup
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.scheduling import scheduler_of

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.trial.job import TrialJob
from semigrid.trainers.trial.run import run_trial

# as shares of the losses without a group, on the same device
TOLERANCE = (2e-3, 2e-3)


def group(setup: Setup) -> Iterator[Line]:
    """A small training through Ray Train, beside the same in this process."""
    with running_ray():
        yield beside_one_process(setup)


def beside_one_process(setup: Setup) -> Line:
    from semigrid.trainers.ray_worker import run_group

    exact_convolutions()
    job = job_of(setup)
    by_ray = run_group(job)
    alone = job.model_copy(update={"place": replace(job.place, folder=str(setup.folder / "alone"))})
    expected = run_trial(alone, Runtime(Checkpoints(alone.checkpoints), device=setup.device))
    backend = "NCCL" if setup.device == "cuda" else "gloo"
    what = f"one worker, {backend}: loss beside none"
    return compared(what, losses_of(by_ray), losses_of(expected), TOLERANCE)


def job_of(setup: Setup) -> TrialJob:
    """The first training of the tests' small grid, as a group's worker is sent it."""
    from semigrid.grid.run.dispatch import trial_job

    plan = plan_of(experiment_text())
    message = trial_job(plan, next(scheduler_of(plan).ready()), open_storage(setup.folder / "grid"))
    gpus = {"gpus_per_worker": 1} if setup.device == "cuda" else {}
    options = message.options.model_copy(update=gpus)
    return message.model_copy(update={"options": options, "scratch": str(setup.folder / "ray")})
