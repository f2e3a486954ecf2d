"""The driver's side of a job: what is sent to its worker, what its result changes, who is told."""

import contextlib
from dataclasses import replace
from typing import Any, Protocol

from semigrid.data.redact import without_secrets
from semigrid.data.storage import Storage
from semigrid.grid.study.ledger import Ledger, Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState
from semigrid.trainers.options import REPORT_SECONDS
from semigrid.trainers.trial.job import Failure, TrialJob

# Reports that a driver takes in a second; a training waits until its own is taken.
REPORTS_PER_SECOND = 50


def trial_job(
    plan: Plan,
    job: Job,
    storage: Storage,
    running: int = 0,
    attempt: str | None = None,
    scratch: str = "",
    lacked_room: bool = False,
) -> TrialJob:
    """What a worker process needs to do a job; see ``TrialJob``.

    Args:
        running: how many jobs run beside it. The more there are, the less often each reports.
        attempt: token of an attempt at the trial, on a cluster.
    """
    model = job.search.cell.model
    place = plan.place(job.search, storage.uri, storage.patience)
    return TrialJob(
        kind=job.kind,
        spec=job.spec,
        cell=job.search.name,
        place=replace(place, attempt=None if attempt is None else (job.spec.id, attempt)),
        options=plan.experiment.train_of(model),
        cutoffs=job.cutoffs,
        weights=plan.experiment.weights_of(model),
        report_seconds=max(REPORT_SECONDS, running / REPORTS_PER_SECOND),
        scratch=scratch,
        images=job.images,
        lacked_room=lacked_room,
    )


def process_died(error: BaseException | None, times: int, logs: str | None = None) -> Failure:
    """The failure of a job whose process died this often.

    Args:
        error: Ray's, where it has one; the log files that it names are gone after the run.
        logs: where Ray's logs are kept.
    """
    details = str(error or "").strip()
    reason = details.splitlines()[-1] if details else "Ray does not know why"
    often = f"{times} times in a row" if times > 1 else "once"
    message = f"its process died {often} without a new checkpoint: {reason}"
    details = details or message
    if logs:
        message, details = f"{message}; Ray's logs: {logs}", f"{details}\n\nRay's logs: {logs}\n"
    return Failure(kind="process_died", message=message, details=details)


def conclude(
    job: Job, scheduler: Scheduler, ledger: Ledger, failure: Failure | None = None
) -> tuple[Record | None, str | None]:
    """Tells the scheduler how a job ended; returns its trial's record, and the problem if any."""
    if failure is not None and failure.kind == "damaged_weights":
        assert failure.trial_id is not None
        again = f"{failure.message}; it was trained again once already"
        scheduler.lose(job, failure.trial_id, again)
        return None, f"{failure.message}; trial {failure.trial_id} trains again"
    if failure is not None and failure.kind == "damaged_soft_targets":
        is_again = scheduler.put_back(job, f"{failure.message}; they were made again once already")
        return None, f"{failure.message}; they are made again" if is_again else failure.message
    try:
        record = ledger.read(job.spec.id)
    except OSError as error:
        record = None
        failure = failure or Failure(kind="storage", message=f"{type(error).__name__}: {error}")
    if record is not None and failure is not None:
        record.status = "failed" if record.status == "started" else record.status
        record.error = without_secrets(failure.message)
        if failure.details:
            ledger.write_log(record, failure.details)
        with contextlib.suppress(OSError):  # the scheduler knows it anyway
            ledger.write(record)
    problem = None
    if record is None:
        problem = failure.message if failure else "its record is gone from the ledger"
    elif record.status == "failed" or failure is not None:
        problem = _with_log(record)
    elif job.kind == "evaluate" and record.test is None:
        problem = f"could not be evaluated on test: {_with_log(record)}"
    elif job.kind == "soft targets" and record.soft_targets < job.images:
        problem = f"could not be asked of the pool: {_with_log(record)}"
    scheduler.complete(job, record, problem)
    return record, problem


def _with_log(record: Record) -> str:
    return f"{record.error} (log: {record.log})" if record.log else str(record.error)


class RunObserver(Protocol):
    """Follows a run; ``activity`` is what it is doing while no job is under way."""

    activity: str

    def started(self, job: Job) -> None:
        """A job was handed to a worker process."""

    def progress(self, job: Job, facts: dict[str, Any]) -> None:
        """A running job reported where it stands, or an evaluation."""

    def died(self, job: Job, waited: bool = False) -> None:
        """A job's process died, or one that ``waited`` has still no room; it starts again."""

    def completed(
        self, study: StudyState, job: Job, record: Record | None, problem: str | None
    ) -> None:
        """A job ended, however it did; ``study`` is the state after it."""

    def asked(self, machines: str) -> None:
        """The cluster's autoscaler is asked for these machines; for none if it is empty."""

    def noted(self, words: str) -> None:
        """Something happened that the user should know, and that ends nothing."""
