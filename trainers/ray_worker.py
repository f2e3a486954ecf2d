"""A trial on N DDP workers through Ray Train."""

import json
from dataclasses import asdict
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from trainers.checkpoint import Checkpoints
from trainers.choose import Cutoffs
from trainers.health import CollapsedError, DivergedError
from trainers.loop import Outcome
from trainers.progress import Meter, device_kind, held_devices
from trainers.runtime import DistributedRuntime
from trainers.trial import DamagedError, Place, TrialSpec, run_trial

OUTCOME = "outcome.json"
# a lost worker restarts the whole group from its checkpoint, this often
WORKER_FAILURES = 3
# a group that cannot start, or a controller that breaks, gives up after this many tries
CONTROLLER_FAILURES = 2


def run_group(
    spec: TrialSpec,
    place: Place,
    workers: int,
    cpus_per_worker: int,
    gpus_per_worker: float,
    train_storage: str,
    callbacks: list[Any] | None = None,
    cutoffs: Cutoffs | None = None,
) -> dict[str, Any]:
    """Trains a trial on a worker group and returns rank 0's outcome.

    The checkpoints are the trial's own, not Ray Train's: a trial that began with one worker can
    go on with two. Raises what a worker raised.
    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "spec": spec.model_dump_json(),
            "place": asdict(place),
            "devices": (cpus_per_worker, gpus_per_worker),
            "cutoffs": cutoffs or {},
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={
                "CPU": cpus_per_worker,
                **({"GPU": gpus_per_worker} if gpus_per_worker else {}),
            },
        ),
        run_config=RunConfig(
            name=spec.id,
            storage_path=train_storage,
            failure_config=FailureConfig(
                max_failures=WORKER_FAILURES, controller_failure_limit=CONTROLLER_FAILURES
            ),
            callbacks=callbacks or [],
        ),
    )
    trainer.fit()
    return _read_outcome(place, spec)


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
