"""Does one job in a worker process: trains or evaluates a trial, and writes its record."""

import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from semigrid.data.redact import without_secrets
from semigrid.grid.study.ledger import ENDED, Ledger, Record, start_record
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.progress import Meter, held_devices, read_progress
from semigrid.trainers.execution.runtime import ReportMetrics, Runtime
from semigrid.trainers.features.store import Part
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.soft_targets.make import (
    Answers,
    Teacher,
    in_this_process,
    make_soft_targets,
)
from semigrid.trainers.trial.fence import FencedError
from semigrid.trainers.trial.job import (
    DamagedFilesError,
    Failure,
    FailureKind,
    NoRoomError,
    TrialJob,
)
from semigrid.trainers.trial.run import evaluate_trial, run_trial

# Trains a trial on a group of workers.
RunGroup = Callable[[TrialJob], Outcome]
# Lets a teacher answer for images, with the options that its trainings have.
AskTeacher = Callable[[Teacher, Sequence[Part], TrainOptions], Iterator[Answers]]


def do_job(
    job: TrialJob,
    report: ReportMetrics,
    run_group: RunGroup,
    ask: AskTeacher = lambda teacher, parts, options: in_this_process(teacher, parts),
) -> Failure | None:
    """Does a job with a trial; its record says how it ended, the failure what it cannot say.

    Args:
        report: is called with the training's progress and evaluations.
        run_group: is called for a training on more than one worker.
        ask: is called for soft targets.
    """
    ledger = Ledger(job.place.storage)
    try:
        if job.kind == "train":
            _train(job, ledger, report, run_group)
        elif job.kind == "evaluate":
            _evaluate(job, ledger)
        else:
            _make_soft_targets(job, ledger, report, ask)
    except NoRoomError as error:
        return _failed("no_room", error)
    except DamagedFilesError as error:
        return _failed(error.kind, error, error.trial_id)
    except FencedError as error:  # the driver does not listen any more
        logging.getLogger(__name__).warning("%s", error)
        return _failed("given_up", error)
    except OSError as error:  # a full disk, storage that is gone: the ledger cannot say it
        return _failed("storage", f"{type(error).__name__}: {error}")
    return None


def _failed(kind: FailureKind, why: object, trial_id: str | None = None) -> Failure:
    return Failure(kind=kind, message=str(why), trial_id=trial_id)


def _train(job: TrialJob, ledger: Ledger, report: ReportMetrics, run_group: RunGroup) -> None:
    spec, options = job.spec, job.options
    checkpoints = Checkpoints(job.checkpoints)
    earlier = ledger.read(spec.id)
    # what a group holds is known once its workers are asked; until then, cores are counted
    held = {} if options.gpus_per_worker else {"cpu": options.workers * options.cpus_per_worker}
    meter = Meter(job.checkpoints, held, earlier.device_seconds if earlier else {})
    record = start_record(spec, job.cell, job.weights)
    record.device_seconds = meter.spent()
    ledger.write(record)
    if spec.parent is not None:
        parent = ledger.read(spec.parent)
        job = _with_hash(job, parent)
        if parent is not None:
            job = job.model_copy(update={"parent_network": parent.best_weights})
    try:
        if options.workers == 1:
            runtime = Runtime(checkpoints, report, options.device, meter=meter)
            meter.held = held_devices([runtime.device_kind], options)
            _note_end(record, run_trial(job, runtime))
        else:
            _note_end(record, run_group(job))
    except (DamagedFilesError, FencedError, NoRoomError):  # no failure of this trial
        raise
    except Exception as error:  # whatever went wrong belongs in the ledger, not only in Ray's logs
        # a process cut off from the cluster may have ended the same trial while this one tried
        other = ledger.read(spec.id)
        if other is not None and other.status in ENDED:
            return
        record.status = "failed"
        _note_error(record, error, ledger)
    record.finished_at = time.time()
    record.starts, record.steps_run = meter.starts, meter.steps_run
    if options.workers > 1:
        progress = read_progress(checkpoints.storage)
        # the time before its workers could count is paid for, too
        meter.held = progress.get("held", meter.held)
        record.starts, record.steps_run = progress.get("starts", []), progress.get("steps_run", 0)
    record.device_seconds = meter.spent()
    ledger.write(record)
    meter.wait()  # else what it wrote last would come back
    if record.status in ENDED:
        checkpoints.delete()  # only now: until the ledger has the result, they are the result


def _note_end(record: Record, outcome: Outcome) -> None:
    record.status, record.error = outcome.status, outcome.error
    if outcome.status in ("finished", "stopped"):
        record.val = outcome.best_metrics
        record.best_step, record.best_weights = outcome.best_step, outcome.best_weights
    record.weights_file = outcome.weights_file
    record.history, record.speed = outcome.history, outcome.speed
    record.seconds = outcome.seconds
    record.broken_images = outcome.broken
    record.resumed_at = outcome.resumed_at
    record.damaged = outcome.damaged


def _evaluate(job: TrialJob, ledger: Ledger) -> None:
    record = ledger.read(job.spec.id)
    assert record is not None
    if record.test is not None and ledger.has_predictions(record):
        return
    try:
        runtime = Runtime(Checkpoints(job.checkpoints), device=job.options.device)
        held = held_devices([runtime.device_kind], job.options)
        meter = Meter(job.checkpoints, held, record.device_seconds)
        record.test, record.predictions_file = evaluate_trial(
            _with_hash(job, record), record.best_weights, runtime
        )
        record.device_seconds = meter.spent()
        record.error = record.log = None
    except (DamagedFilesError, FencedError):
        raise
    except Exception as error:  # see _train
        _note_error(record, error, ledger)
    ledger.write(record)


def _make_soft_targets(
    job: TrialJob, ledger: Ledger, report: ReportMetrics, ask: AskTeacher
) -> None:
    record = ledger.read(job.spec.id)
    assert record is not None
    options = job.options
    # what another cell asked for, too, in case it was lost
    job = job.model_copy(update={"images": max(job.images, record.soft_targets)})
    checkpoints = Checkpoints(job.checkpoints)
    meter = Meter(job.checkpoints, {}, record.device_seconds)
    told = 0.0

    def answers(teacher: Teacher, parts: Sequence[Part]) -> Iterator[Answers]:
        for block in ask(teacher, parts, options):
            # other processes hold the devices; the time before they could tell is paid for, too
            meter.held = held_devices([block.device_kind] * options.workers, options)
            yield block

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= job.report_seconds:
            told = time.monotonic()
            report(meter.note({"step": done, "total_steps": total}))

    try:
        record.soft_target_files = make_soft_targets(
            _with_hash(job, record),
            record.best_weights,
            options.device,
            answers,
            progress,
        )
        record.soft_targets = job.images
        record.error = record.log = None
    except (DamagedFilesError, FencedError):
        raise
    except Exception as error:  # see _train
        _note_error(record, error, ledger)
    record.device_seconds = meter.spent()
    ledger.write(record)
    meter.wait()
    checkpoints.delete()  # where its progress was


def _with_hash(job: TrialJob, record: Record | None) -> TrialJob:
    """The job with the hash of the weights that it loads, those of the recorded trial."""
    facts = record.weights_file if record else None
    place = replace(job.place, weights_sha256=facts.sha256 if facts else None)
    return job.model_copy(update={"place": place})


def _note_error(record: Record, error: Exception, ledger: Ledger) -> None:
    record.error = without_secrets(f"{type(error).__name__}: {error}").splitlines()[0]
    ledger.write_log(record, "".join(traceback.format_exception(error)))
