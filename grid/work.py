"""What becomes of one job: the trial trained or measured, and what the ledger says of it."""

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from data.storage import Storage
from grid.ledger import ENDED, Ledger, Record, start_record
from trainers.choose import Cutoffs
from trainers.trial import Place, TrialSpec, measure_trial, run_trial
from trainers.weights import Weights

Report = Callable[[dict[str, Any]], None]
# Trains on a worker group and returns the outcome as a dict; the dict given is the order.
RunGroup = Callable[[TrialSpec, Place, dict[str, Any]], dict[str, Any]]


def do_job(order: dict[str, Any], report: Report, run_group: RunGroup) -> None:
    """Does what ``order`` asks for; whatever goes wrong is in the trial's record afterwards.

    ``report`` gets signs of life and, at the end, the trial's ``status``; ``run_group`` is called
    where the order asks for more than one worker.
    """
    spec = TrialSpec.model_validate(order["spec"])
    place = Place(**order["place"])
    ledger = Ledger(place.storage)
    if order["kind"] == "measure":
        _measure(spec, place, ledger, order, report)
    else:
        _train(spec, place, ledger, order, report, run_group)


def _train(
    spec: TrialSpec,
    place: Place,
    ledger: Ledger,
    order: dict[str, Any],
    report: Report,
    run_group: RunGroup,
) -> None:
    from trainers.health import CollapsedError

    weights = None if order["weights"] is None else Weights(**order["weights"])
    record = start_record(spec, order["cell"], weights)
    ledger.write(record)
    checkpoints = _checkpoints(spec, place)
    try:
        if order["workers"] == 1:
            from trainers.runtime import InlineRuntime

            device = "cuda" if order["gpus_per_worker"] else "cpu"
            runtime = InlineRuntime(checkpoints, report=report, device=device)
            outcome = run_trial(spec, place, runtime, cutoffs_of(order))
        else:
            outcome = run_group(spec, place, order)
        record.status = "stopped" if outcome["fell_behind"] else "finished"
        record.val = outcome["best_metrics"]
        record.best_step = outcome["best_step"]
        record.best_weights = outcome["best_weights"]
        _note_course(record, outcome)
    except Exception as error:  # whatever went wrong belongs into the ledger, not only to Ray
        root = _root(error)
        record.status = "failed"
        if isinstance(root, CollapsedError):
            record.status = root.status
            _note_course(record, asdict(root.outcome))
        _note_error(record, error, place)
    record.finished_at = time.time()
    ledger.write(record)
    if record.status in ENDED:
        checkpoints.delete()  # only now: until the ledger has it, the checkpoint is the result
    report({"step": spec.recipe.total_steps, "status": record.status})


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


def _measure(
    spec: TrialSpec, place: Place, ledger: Ledger, order: dict[str, Any], report: Report
) -> None:
    from trainers.runtime import InlineRuntime

    record = ledger.read(spec.id)
    assert record is not None
    if record.test is None:
        try:
            device = "cuda" if order["gpus_per_worker"] else "cpu"
            runtime = InlineRuntime(_checkpoints(spec, place), device=device)
            record.test = measure_trial(spec, place, record.best_weights, runtime)
            record.error = record.log = None
        except Exception as error:  # see _train
            _note_error(record, error, place)
        ledger.write(record)
    report({"step": 0, "status": record.status})


def _checkpoints(spec: TrialSpec, place: Place) -> Any:
    from trainers.checkpoint import Checkpoints

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


def note_death(record: Record, words: str | None, storage: Storage, max_failures: int) -> None:
    """Notes in the record why its process died once too often, and could not say so itself.

    Args:
        words: what is known of it, Ray's own error.
    """
    last = (words or "").strip().splitlines() or [""]
    if record.status == "started":
        record.status = "failed"
    times = f"{max_failures + 1} times in a row" if max_failures else "once"
    reason = last[-1].partition(" Some common causes")[0].strip() or "nothing is known of why"
    record.error = f"its process died {times} without a new checkpoint: {reason}"
    _write_log(record, words or record.error, storage)


def _write_log(record: Record, words: str, storage: Storage) -> None:
    name = f"logs/{record.id}.log"
    try:
        storage.write(name, words.encode())
        record.log = storage.path(name)
    except OSError as full:  # what broke the trial may break its log: the disk is full
        record.log = f"could not be written: {full}"
