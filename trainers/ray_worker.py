"""A trial on a group of DDP workers, through Ray Train."""

import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayTaskError
from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from semigrid.trainers.cluster.ray_network import GroupNetwork
from semigrid.trainers.cluster.ray_nodes import has_room, placement
from semigrid.trainers.cluster.ray_private import (
    START_ERRORS,
    UNREACHABLE_ERRORS,
    death_of,
    orphaned_placement_groups,
)
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import Meter, held_devices
from semigrid.trainers.execution.runtime import DistributedRuntime
from semigrid.trainers.layout import latest_checkpoint
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.trial.job import DamagedFilesError, NoRoomError, TrialJob
from semigrid.trainers.trial.run import run_trial

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# Errors of a worker that was lost; any other error was raised by its own code.
LOST = (*UNREACHABLE_ERRORS, RayActorError)
# Most starts without a new checkpoint after which one more follows an exception of a worker's code:
# it may be another worker's death, as seen by this one.
WORKER_EXCEPTIONS = 3
# Longest wait for room for a group that lost its machines, in seconds. Then its job goes back to
# the driver, which asks for machines, has them checked, and waits for as long as it takes.
ROOM_SECONDS = 20.0


class GroupDiedError(RuntimeError):
    """A worker group died, or could not start, too often without a new checkpoint."""


@dataclass
class Deaths:
    """Deaths of a worker group since its training last wrote a checkpoint."""

    checkpoint: str | None
    count: int = 0
    exceptions: int = 0

    def are_too_many(self, is_exception: bool, checkpoint: str | None, max_failures: int) -> bool:
        """Counts one more death, by an exception of a worker's code or by the loss of a worker."""
        if checkpoint != self.checkpoint:
            self.checkpoint, self.count, self.exceptions = checkpoint, 0, 0
        self.count += 1
        self.exceptions += is_exception
        return self.count > max_failures or (is_exception and self.exceptions > WORKER_EXCEPTIONS)


def run_group(job: TrialJob, callbacks: Sequence[UserCallback] = ()) -> Outcome:
    """Trains a trial on a worker group and returns rank 0's result.

    The checkpoints are the trial's own, not Ray Train's: a trial that began with one worker can go
    on with two. Ray Train neither looks at them nor outlives its controller, so a group is started
    again here when a worker or the controller dies, or when it does not start.

    Raises:
        GroupDiedError: it died ``max_failures`` times in a row without a new checkpoint, and once
            more.
        NoRoomError: on a cluster, there is no room to start it (again). Waiting here, it might be
            given machines that were not checked yet.
        DamagedFilesError: the parent's weights, or soft targets, are not as they were written.
        Exception: what a worker's code raised.
    """
    options = job.options
    resources = {"CPU": float(options.cpus_per_worker)}
    if options.gpus_per_worker:
        resources["GPU"] = options.gpus_per_worker
    deaths = Deaths(_checkpoint(job))
    if job.lacked_room and not _finds_room(options.workers, resources):
        raise NoRoomError(f"there is still no room for {options.workers} × {resources}")
    while True:
        scaling = ScalingConfig(
            num_workers=options.workers,
            use_gpu=options.gpus_per_worker > 0,
            resources_per_worker=resources,
            label_selector=placement(),
        )
        try:
            result = _trainer(job, scaling, callbacks).fit().return_value
        except (TrainingFailedError, RayActorError) as error:
            free_orphans()
            is_exception = not _is_loss(error)
            if deaths.are_too_many(is_exception, _checkpoint(job), options.max_failures):
                if is_exception:
                    raise _worker_exception(error) from error
                raise GroupDiedError(_describe(error, deaths.count, scaling)) from error
            if job.place.attempt is not None and not _finds_room(options.workers, resources):
                raise NoRoomError(
                    "its worker group died, and there is no room for "
                    f"{options.workers} × {resources}"
                ) from error
        else:
            if isinstance(result, DamagedFilesError):
                raise result
            assert isinstance(result, Outcome)
            return result


def _trainer(
    job: TrialJob, scaling: ScalingConfig, callbacks: Sequence[UserCallback]
) -> TorchTrainer:
    return TorchTrainer(
        _worker,
        train_loop_config={"job": _next_part(job)},
        torch_config=GroupNetwork(backend="nccl" if job.options.gpus_per_worker else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            # a name of its own, or it would look for the state of the one that died
            name=f"{job.spec.id}-{uuid.uuid4().hex[:8]}",
            storage_path=job.scratch,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            callbacks=list(callbacks),
        ),
    )


def _checkpoint(job: TrialJob) -> str | None:
    return job.place.storage.stamp(latest_checkpoint(job.spec.id))


def _finds_room(workers: int, resources: dict[str, float]) -> bool:
    """Whether there is room for the group; what died frees its resources a little later."""
    deadline = time.monotonic() + ROOM_SECONDS
    while not has_room(workers, resources):
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _next_part(job: TrialJob) -> TrialJob:
    """The job for the next start of the group; what is left of an earlier one may write no more.

    Raises ``FencedError`` if the attempt itself was given up.
    """
    fence = job.place.fence
    if fence is None:
        return job
    place = replace(job.place, attempt=(fence.trial_id, fence.next_part()))
    return job.model_copy(update={"place": place})


def free_orphans() -> None:
    """Removes this job's placement groups whose creators, controllers of groups, are dead.

    Ray keeps such a group until the job ends, and the next start would wait for its room in vain.
    Ray Train's own cleaner knows a group only once all its workers have started, and gives up where
    several Ray instances run on one machine.
    """
    for group in orphaned_placement_groups():
        ray.util.remove_placement_group(group)


def _is_loss(error: BaseException) -> bool:
    """Whether something was killed or did not start, as opposed to an exception of its code."""
    if isinstance(error, WorkerGroupError):
        return any(isinstance(failure, LOST) for failure in error.worker_failures.values())
    if isinstance(error, ControllerError):
        return isinstance(error.controller_failure, START_ERRORS)
    return True


def _worker_exception(error: BaseException) -> BaseException:
    """The exception that a worker's code raised, or the error itself."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    failure: BaseException = next(iter(failures), error)
    return failure.cause if isinstance(failure, RayTaskError) else failure


def _describe(error: BaseException, times: int, scaling: ScalingConfig) -> str:
    often = f"{times} times in a row" if times > 1 else "once"
    if isinstance(error, ControllerError):
        free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        return (
            f"its worker group could not start, {often} (up to {os.environ.get(START_TIMEOUT)} s "
            f"each): it needs {scaling.num_workers} × {scaling.resources_per_worker}, and Ray now "
            f"has {free} free; {str(error.controller_failure).splitlines()[0]}"
        )
    death = error
    if isinstance(error, WorkerGroupError):
        failures = error.worker_failures.values()
        death = death_of(next(failure for failure in failures if isinstance(failure, LOST)))
    words = " ".join(str(death).split())
    return f"its worker group died {often} without a new checkpoint: {words}"


def _worker(config: dict[str, Any]) -> Outcome | DamagedFilesError:
    """One worker's share of the training; Ray Train passes on what rank 0 returns."""
    job: TrialJob = config["job"]
    # a GPU is chosen by Ray Train, which sets the device of this process
    device = str(ray.train.torch.get_device())
    runtime = DistributedRuntime(Checkpoints(job.checkpoints), ray.train.report, device)
    held = held_devices(runtime.gather(runtime.device_kind), job.options)
    if runtime.rank == 0:
        runtime.meter = Meter(job.checkpoints, held)
        runtime.meter.note({"step": 0})
    try:
        result: Outcome | DamagedFilesError = run_trial(job, runtime)
    except DamagedFilesError as error:
        result = error  # if it were raised, the group would be started again
    if runtime.meter is not None:
        runtime.meter.write()
    return result
