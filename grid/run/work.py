"""What becomes of one job: the trial trained or measured, and what the ledger says of it."""

import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from semigrid.data.storage import FileFacts, Storage
from semigrid.grid.study.layout import log_file
from semigrid.grid.study.ledger import Ledger, Record, start_record, summarize
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job
from semigrid.grid.study.summary import ENDED
from semigrid.trainers.choose import Cutoffs
from semigrid.trainers.fence import FencedError
from semigrid.trainers.progress import Meter, device_kind, held_devices, read_progress
from semigrid.trainers.trial import (
    DamagedError,
    NoRoomError,
    Place,
    TrialSpec,
    measure_trial,
    run_trial,
)
from semigrid.trainers.weights import Weights

Report = Callable[[dict[str, Any]], None]
# Trains on a worker group and returns the outcome as a dict; the dict given is the order.
RunGroup = Callable[[TrialSpec, Place, dict[str, Any]], dict[str, Any]]


# A driver takes some hundred reports a second, and a training waits until its own is taken: so many
# of them are left to it.
REPORTS_PER_SECOND = 50


def order_for(plan: Plan, job: Job, storage: Storage, running: int = 0) -> dict[str, Any]:
    """All that a process needs to know to do a job, as JSON can hold it.

    ``running`` is how many jobs there are beside it: the more, the less often it reports.
    """
    model = job.search.cell.model
    place = plan.place(job.search, storage.uri, storage.patience)
    seconds = max(place.report_seconds, running / REPORTS_PER_SECOND)
    train, weights = plan.experiment.train_of(model), plan.experiment.weights_of(model)
    return {
        "kind": job.kind,
        "spec": job.spec.model_dump(mode="json"),
        "cell": job.search.name,
        "place": asdict(replace(place, report_seconds=seconds)),
        "workers": train.workers,
        "cpus_per_worker": train.cpus_per_worker,
        "gpus_per_worker": train.gpus_per_worker,
        "max_failures": train.max_failures,
        "weights": None if weights is None else weights.model_dump(),
        "cutoffs": sorted(job.cutoffs.items()),
    }


@dataclass(frozen=True)
class Death:
    """The end of a job whose process died once too often; ``words`` are Ray's on why."""

    words: str
    times: int

    def note(self, record: Record, storage: Storage) -> None:
        last = self.words.strip().splitlines() or [""]
        reason = last[-1].partition(" Some common causes")[0].strip() or "nothing is known of why"
        times = f"{self.times} times in a row" if self.times > 1 else "once"
        record.error = f"its process died {times} without a new checkpoint: {reason}"
        _write_log(record, self.words or record.error, storage)


def do_job(order: dict[str, Any], report: Report, run_group: RunGroup) -> None:
    """Does what ``order_for`` asks for; whatever goes wrong is in the trial's record afterwards.

    ``report`` gets signs of life and, at the end, the trial's ``status``, or a ``problem`` that
    the record does not tell: it could not be written, or the weights of ``damaged_trial`` are not
    what they were. ``run_group`` is called where the order asks for more than one worker; its
    ``NoRoomError`` is raised, as if this process had died.
    """
    spec = TrialSpec.model_validate(order["spec"])
    place = Place(**order["place"])
    ledger = Ledger(place.storage)
    try:
        if order["kind"] == "measure":
            _measure(spec, place, ledger, order, report)
        else:
            _train(spec, place, ledger, order, report, run_group)
    except FencedError as error:  # who gave it up does not listen any more
        logging.getLogger(__name__).warning("%s", error)
        report({"step": 0, "problem": str(error)})
    except DamagedError as error:
        report({"step": 0, "damaged_trial": error.trial_id, "problem": error.problem})
    except OSError as error:  # a full disk, storage that is gone: the ledger cannot say it
        report({"step": 0, "problem": f"{type(error).__name__}: {error}"})


def settle(
    job: Job,
    scheduler: Scheduler,
    ledger: Ledger,
    result: dict[str, Any] | None = None,
    death: Death | None = None,
) -> tuple[Record | None, str | None]:
    """Tells the scheduler how a job ended; returns its trial's record and what went wrong.

    ``result`` is what ``do_job`` reported last; with a ``death`` it did not come to its end.
    """
    reported: str | None = (result or {}).get("problem")
    damaged: str | None = (result or {}).get("damaged_trial")
    if damaged is not None and death is None:
        scheduler.lose(job, damaged, f"{reported}; it was trained again once already")
        return None, f"{reported}; trial {damaged} trains again"
    try:
        record = ledger.read(job.spec.id)
    except OSError as error:
        record, reported = None, reported or f"{type(error).__name__}: {error}"
    problem = None
    if record is not None and (death or reported):
        record.status = "failed" if record.status == "started" else record.status
        record.error = reported or record.error
        if death is not None:
            death.note(record, ledger.storage)
        with contextlib.suppress(OSError):  # the scheduler knows it anyway
            ledger.write(record)
    if record is None:
        problem = reported or "its record is gone from the ledger"
    elif record.status == "failed" or death or reported:
        problem = f"{record.error} (log: {record.log})" if record.log else str(record.error)
    elif job.kind == "measure" and record.test is None:
        problem = f"could not be measured on test: {record.error} (log: {record.log})"
    scheduler.complete(job, summarize(record) if record else None, problem)
    return record, problem


def _train(
    spec: TrialSpec,
    place: Place,
    ledger: Ledger,
    order: dict[str, Any],
    report: Report,
    run_group: RunGroup,
) -> None:
    from semigrid.trainers.health import CollapsedError

    weights = None if order["weights"] is None else Weights(**order["weights"])
    record = start_record(spec, order["cell"], weights)
    checkpoints = _checkpoints(spec, place)
    meter = _meter(spec, place, ledger, order)
    record.device_seconds = meter.spent()
    ledger.write(record)
    if spec.parent is not None:
        place = _with_hash(place, ledger.read(spec.parent))
    try:
        if order["workers"] == 1:
            from semigrid.trainers.runtime import InlineRuntime

            device = "cuda" if order["gpus_per_worker"] else "cpu"
            runtime = InlineRuntime(checkpoints, report=report, device=device, meter=meter)
            meter.held = _held(runtime.device, order)
            outcome = run_trial(spec, place, runtime, cutoffs_of(order))
        else:
            outcome = run_group(spec, place, order)
        record.status = "stopped" if outcome["fell_behind"] else "finished"
        record.val = outcome["best_metrics"]
        record.best_step = outcome["best_step"]
        record.best_weights = outcome["best_weights"]
        if record.status == "finished":
            record.weights_file = FileFacts(**outcome["weights_file"])
        _note_course(record, outcome)
    except (DamagedError, FencedError, NoRoomError):  # the parent's failure, or nobody's
        raise
    except Exception as error:  # whatever went wrong belongs into the ledger, not only to Ray
        root = _root(error)
        record.status = "failed"
        if isinstance(root, CollapsedError):
            record.status = root.status
            _note_course(record, asdict(root.outcome))
        _note_error(record, error, place)
    if record.status == "failed":
        # a process cut off from the cluster may have ended the same trial while this one tried
        other = ledger.read(spec.id)
        if other is not None and other.status in ENDED:
            report({"step": spec.recipe.total_steps, "status": other.status})
            return
    record.finished_at = time.time()
    record.starts, record.steps_run = meter.starts, meter.steps_run
    if order["workers"] > 1:
        told = read_progress(checkpoints.storage)
        # its start, before there were workers who could count, is paid for too
        meter.held = told.get("held", meter.held)
        record.starts, record.steps_run = told.get("starts", []), told.get("steps_run", 0)
    record.device_seconds = meter.spent()
    ledger.write(record)
    meter.wait()  # else what it wrote last would come back
    if record.status in ENDED:
        checkpoints.delete()  # only now: until the ledger has it, the checkpoint is the result
    report({"step": spec.recipe.total_steps, "status": record.status})


def _meter(spec: TrialSpec, place: Place, ledger: Ledger, order: dict[str, Any]) -> Meter:
    """Counts on from what earlier attempts at the trial took."""
    earlier = ledger.read(spec.id)
    # until the workers say what they run on
    held = {} if order["gpus_per_worker"] else {"cpu": order["workers"] * order["cpus_per_worker"]}
    before = {} if earlier is None else earlier.device_seconds
    return Meter(place.checkpoints(spec.id), held, before)


def _held(device: Any, order: dict[str, Any]) -> dict[str, float]:
    return held_devices([device_kind(device)], order["cpus_per_worker"], order["gpus_per_worker"])


def cutoffs_of(order: dict[str, Any]) -> Cutoffs:
    """What the training must reach, as the order's JSON has it."""
    return {step: (acc1, ce) for step, (acc1, ce) in order["cutoffs"]}


def _note_course(record: Record, outcome: dict[str, Any]) -> None:
    """What a training leaves behind however it ended."""
    record.history = outcome["history"]
    record.speed = outcome["speed"]
    record.seconds = outcome["seconds"]
    record.broken_images = outcome["broken"]
    record.resumed_at = outcome["resumed_at"]
    record.damaged = outcome["damaged"]


def _measure(
    spec: TrialSpec, place: Place, ledger: Ledger, order: dict[str, Any], report: Report
) -> None:
    from semigrid.trainers.runtime import InlineRuntime

    record = ledger.read(spec.id)
    assert record is not None
    if record.test is None or not ledger.has_predictions(spec.id):
        try:
            device = "cuda" if order["gpus_per_worker"] else "cpu"
            runtime = InlineRuntime(_checkpoints(spec, place), device=device)
            meter = Meter(
                place.checkpoints(spec.id), _held(runtime.device, order), record.device_seconds
            )
            place = _with_hash(place, record)
            record.test, record.predictions_file = measure_trial(
                spec, place, record.best_weights, runtime
            )
            record.device_seconds = meter.spent()
            record.error = record.log = None
        except (DamagedError, FencedError):
            raise
        except Exception as error:  # see _train
            _note_error(record, error, place)
        ledger.write(record)
    report({"step": 0, "status": record.status})


def _with_hash(place: Place, record: Record | None) -> Place:
    """The place, with what the weights of the recorded trial must be."""
    facts = record.weights_file if record else None
    return replace(place, weights_sha256=facts.sha256 if facts else None)


def _checkpoints(spec: TrialSpec, place: Place) -> Any:
    from semigrid.trainers.checkpoint import Checkpoints

    return Checkpoints(place.checkpoints(spec.id))


def _root(error: BaseException) -> BaseException:
    """The error that a worker of Ray Train raised, or the error itself."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException = getattr(failure, "cause", failure)
        return cause
    return error


def _note_error(record: Record, error: Exception, place: Place) -> None:
    root = _root(error)
    record.error = f"{type(root).__name__}: {root}".splitlines()[0]
    _write_log(record, "".join(traceback.format_exception(error)), place.storage)


def _write_log(record: Record, words: str, storage: Storage) -> None:
    name = log_file(record.id)
    try:
        storage.write(name, words.encode())
        record.log = storage.location(name)
    except OSError as full:  # what broke the trial may break its log: the disk is full
        record.log = f"could not be written: {full}"
