"""A trial on N DDP workers through Ray Train."""

import json
import os
import time
import uuid
from dataclasses import asdict, replace
from typing import Any

import ray
import ray.train
from ray import ActorID, JobID, PlacementGroupID
from ray._private.state import state
from ray.core.generated import gcs_pb2
from ray.exceptions import RayActorError
from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.util.placement_group import PlacementGroup

from semigrid.trainers.checkpoint import Checkpoints
from semigrid.trainers.choose import Cutoffs
from semigrid.trainers.health import CollapsedError, DivergedError
from semigrid.trainers.layout import latest_checkpoint
from semigrid.trainers.network import backend_for, talk_over
from semigrid.trainers.outcome import Outcome
from semigrid.trainers.progress import Meter, device_kind, held_devices
from semigrid.trainers.ray_nodes import has_room, placement
from semigrid.trainers.runtime import DistributedRuntime
from semigrid.trainers.trial import (
    DamagedError,
    NoRoomError,
    Place,
    TrialSpec,
    run_trial,
)

OUTCOME = "outcome.json"
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
NOT_STARTED = (WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError)
# What is said of a worker that cannot be reached any more; all else was raised by its own code.
LOST = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, RayActorError)
# An exception of a worker may be another one's death, seen from afar: it is tried again so often.
WORKER_EXCEPTIONS = 3
# So long (s) a group whose machines vanished looks for room. Then its job goes back to be scheduled
# anew: that waits for machines as long as it takes, asks for them, and has them looked at first.
ROOM_SECONDS = 20.0


class GroupNetwork(TorchConfig):  # type: ignore[misc]  # Ray is untyped
    """Torch's process group, over the network that Ray's nodes know each other by."""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _GroupNetworkBackend


class _GroupNetworkBackend(TorchBackend):  # type: ignore[misc]  # Ray is untyped
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_talk_over_rays_network)
        super().on_start(worker_group, backend_config)


def _talk_over_rays_network() -> None:
    talk_over(ray.util.get_node_ip_address())


class GroupDiedError(RuntimeError):
    """A worker group died, or could not start, too often without a new checkpoint."""


def run_group(
    spec: TrialSpec,
    place: Place,
    workers: int,
    cpus_per_worker: int,
    gpus_per_worker: float,
    train_storage: str,
    max_failures: int = 0,
    callbacks: list[Any] | None = None,
    cutoffs: Cutoffs | None = None,
    look_first: bool = False,
) -> dict[str, Any]:
    """Trains a trial on a worker group and returns rank 0's outcome.

    The checkpoints are the trial's own, not Ray Train's: a trial that began with one worker can go
    on with two. When a worker or what controls the group dies, or the group does not start, it is
    started again; ``max_failures`` times in a row without a new checkpoint, then ``GroupDiedError``
    is raised. On a cluster, one that finds no room again raises ``NoRoomError``: waiting here, it
    might be given machines that were not asked yet. With ``look_first`` so does one for which there
    is no room at once. Ray Train itself neither looks at checkpoints nor outlives its controller,
    so it is left no failures of its own. Raises what a worker raised.
    """
    config: dict[str, Any] = {
        "spec": spec.model_dump_json(),
        "devices": (cpus_per_worker, gpus_per_worker),
        "cutoffs": cutoffs or {},
    }
    resources = {"CPU": float(cpus_per_worker)}
    if gpus_per_worker:
        resources["GPU"] = gpus_per_worker
    checkpoint = place.storage.stamp(latest_checkpoint(spec.id))
    deaths = exceptions = 0
    if look_first and not _finds_room(workers, resources):
        raise NoRoomError(f"there is still no room for {workers} × {resources}")
    while True:
        config["place"] = asdict(_next_part(place))
        scaling = ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker=resources,
            label_selector=placement(),
        )
        run = RunConfig(
            # a name of its own, or it would look for the state of the one that died
            name=f"{spec.id}-{uuid.uuid4().hex[:8]}",
            storage_path=train_storage,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            callbacks=callbacks or [],
        )
        try:
            trainer = TorchTrainer(
                _worker,
                train_loop_config=config,
                torch_config=GroupNetwork(backend=backend_for(gpus_per_worker)),
                scaling_config=scaling,
                run_config=run,
            )
            trainer.fit()
            return _read_outcome(place, spec)
        except (TrainingFailedError, RayActorError) as error:
            free_orphans()
            latest = place.storage.stamp(latest_checkpoint(spec.id))
            if latest != checkpoint:
                deaths = exceptions = 0
            deaths, checkpoint = deaths + 1, latest
            if not _died(error):
                exceptions += 1
                if exceptions > WORKER_EXCEPTIONS:
                    raise
            if deaths > max_failures:
                if not _died(error):
                    raise
                raise GroupDiedError(_describe(error, deaths, scaling)) from error
            if place.attempt is not None and not _finds_room(workers, resources):
                raise NoRoomError(
                    f"its worker group died, and there is no room for {workers} × {resources}"
                ) from error


def _finds_room(workers: int, resources: dict[str, float]) -> bool:
    """Whether there is room for the group; what died gives its own back a little later."""
    deadline = time.monotonic() + ROOM_SECONDS
    while not has_room(workers, resources):
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _next_part(place: Place) -> Place:
    """For the next start of the group: what is left of the one before may write nothing more.

    Raises ``FencedError`` when the attempt itself was given up.
    """
    if place.fence is None:
        return place
    return replace(place, attempt=(place.fence.trial_id, place.fence.next_part()))


def free_orphans() -> None:
    """Removes the placement groups of this job whose creators, controllers of groups, are dead.

    Ray keeps such a group until the job ends. Ray Train has a cleaner for it, which knows a group
    only once all its workers have started, and gives up where several Ray instances run on one
    machine; what it misses, the next attempt would wait for in vain.
    """
    job = ray.get_runtime_context().get_job_id()
    no_actor = ActorID.nil().binary()
    # the public tables do not say who made a group
    for content in state._connect_and_get_accessor().get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(content)
        removed = group.state == gcs_pb2.PlacementGroupTableData.REMOVED
        # one without an actor was made by the driver
        orphan = group.creator_actor_dead and group.creator_actor_id != no_actor
        ours = JobID(group.creator_job_id).hex() == job
        if ours and orphan and not removed and not group.is_detached:
            found = PlacementGroup(PlacementGroupID(group.placement_group_id))
            ray.util.remove_placement_group(found)


def _died(error: BaseException) -> bool:
    """Whether something was killed or not there, as opposed to an exception of a worker's code."""
    if isinstance(error, WorkerGroupError):
        return any(isinstance(failure, LOST) for failure in error.worker_failures.values())
    if isinstance(error, ControllerError):
        return isinstance(error.controller_failure, NOT_STARTED)
    return True


def _describe(error: BaseException, times: int, scaling: ScalingConfig) -> str:
    often = f"{times} times in a row" if times > 1 else "once"
    if isinstance(error, ControllerError):
        free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        wanted = scaling.resources_per_worker
        timeout = os.environ.get(START_TIMEOUT)
        return (
            f"its worker group could not start, {often} (up to {timeout} s each): it needs "
            f"{scaling.num_workers} × {wanted}, and Ray now has {free} free; "
            f"{str(error.controller_failure).splitlines()[0]}"
        )
    why: BaseException = error
    if isinstance(error, WorkerGroupError):
        failures = error.worker_failures.values()
        why = next(failure for failure in failures if isinstance(failure, LOST))
        why = getattr(why, "health_check_failure", why)
    words = " ".join(str(why).split())
    return f"its worker group died {often} without a new checkpoint: {words}"


def _worker(config: dict[str, Any]) -> None:
    spec = TrialSpec.model_validate_json(config["spec"])
    place = Place(**config["place"])
    # a GPU is chosen by Ray Train, which sets the device of this process
    device = str(ray.train.torch.get_device())
    runtime = DistributedRuntime(
        Checkpoints(place.checkpoints(spec.id)), report=ray.train.report, device=device
    )
    held = held_devices(runtime.gather(device_kind(runtime.device)), *config["devices"])
    if runtime.rank == 0:
        runtime.meter = Meter(place.checkpoints(spec.id), held)
        runtime.meter.note({"step": 0, "total_steps": spec.recipe.total_steps})
    try:
        outcome = run_trial(spec, place, runtime, config["cutoffs"])
    except CollapsedError as error:  # raised here, Ray Train would start the group again
        outcome = {error.status: str(error), "outcome": asdict(error.outcome)}
    except DamagedError as error:  # so it would be with the next start
        outcome = {"damaged_trial": error.trial_id, "problem": error.problem}
    if runtime.rank == 0:
        assert runtime.meter is not None
        runtime.meter.write()
        place.checkpoints(spec.id).write(OUTCOME, json.dumps(outcome).encode())


def _read_outcome(place: Place, spec: TrialSpec) -> dict[str, Any]:
    outcome: dict[str, Any] = json.loads(place.checkpoints(spec.id).read(OUTCOME))
    for kind in (DivergedError, CollapsedError):
        if kind.status in outcome:
            error = kind(outcome[kind.status])
            error.outcome = Outcome(**outcome["outcome"])
            raise error
    if "damaged_trial" in outcome:
        raise DamagedError(outcome["damaged_trial"], outcome["problem"])
    return outcome
