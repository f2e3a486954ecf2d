"""Tune's searcher over the whole grid: hands out the scheduler's jobs as they become ready."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune
from ray.tune.search import Searcher

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.grid.run.dispatch import RunObserver, conclude, process_died, trial_job
from semigrid.grid.run.ray_logs import keep_ray_logs
from semigrid.grid.run.room import Room
from semigrid.grid.study.ledger import ENDED, Ledger
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job
from semigrid.grid.trackers.tracker import Trackers
from semigrid.trainers.layout import latest_checkpoint
from semigrid.trainers.ray_worker import Deaths, free_orphans
from semigrid.trainers.trial.fence import begin_attempt, end_attempts
from semigrid.trainers.trial.job import Failure

# How long to look for what a worker group held after the process that drove it died, in seconds.
ORPHAN_SECONDS = 60.0


class TuneTrials(tune.Callback):  # type: ignore[misc]  # Ray is untyped
    """Tune's view of its running trials, which knows why the process of one died.

    ``look`` is called again and again, also while a trial waits for its process.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._trials: dict[str, Any] = {}
        self._look = look

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._look()

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._trials[trial.trial_id] = trial

    def forget(self, trial_id: str) -> BaseException | None:
        """Ray's error if the trial's process died and Ray knows why."""
        trial = self._trials.pop(trial_id, None)
        path = None if trial is None else trial.pickled_error_file
        if path is None or not os.path.exists(path):
            return None
        error: BaseException = cloudpickle.loads(Path(path).read_bytes())
        return error


class GridSearcher(Searcher):  # type: ignore[misc]  # Ray is untyped
    """Hands out jobs, and follows what becomes of them.

    Args:
        scratch: folder for the files of Ray Train, in that of Ray's own.
        stop: ends the run soon after it is set.

    Attributes:
        error: why the run ends before its time.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        ledger: Ledger,
        observer: RunObserver,
        room: Room,
        scratch: str,
        stop: threading.Event,
        trackers: Trackers,
    ):
        super().__init__(metric="step", mode="max")
        self.scheduler, self.ledger, self.observer = scheduler, ledger, observer
        self.room, self.scratch, self.stop, self.trackers = room, scratch, stop, trackers
        self.trials = TuneTrials(self._look)
        self.error: StorageGoneError | InputError | None = None
        self._running: dict[str, Job] = {}  # by Tune's trial ids
        self._deaths: dict[tuple[str, str], Deaths] = {}
        # groups that went back because they lost their machines
        self._lacked_room: set[tuple[str, str]] = set()
        self._orphans_until = 0.0

    def suggest(self, trial_id: str) -> Any:
        """The next job; None while all that is left waits for a running one, or for room."""
        self._stop_if_asked()
        self._look()
        try:
            job = self.room.next_job()
            if job is None:
                return Searcher.FINISHED if self.scheduler.done else None
            storage, failure = self.ledger.storage, None
            try:
                attempt = begin_attempt(storage, job.spec.id)
            except (InputError, StorageGoneError):
                raise
            except OSError as error:  # a full disk: this trial's failure, the next may find room
                words = f"{type(error).__name__}: {error}"
                attempt, failure = "", Failure(kind="storage", message=words)
        except (InputError, StorageGoneError) as error:
            self._end(error)
            raise KeyboardInterrupt from error
        self.scheduler.start(job)
        self.observer.started(job)
        if failure is not None:
            self._conclude(job, failure)
            return None
        self._running[trial_id] = job
        message = trial_job(
            self.scheduler.study.plan,
            job,
            storage,
            running=len(self._running),
            attempt=attempt,
            scratch=self.scratch,
            lacked_room=job.key in self._lacked_room,
        )
        return {"job": message.model_dump_json(), "request": self.room.request(job)}

    def _end(self, error: StorageGoneError | InputError) -> None:
        """Ends the run with an error; raised in a callback, Tune would only report a fault."""
        self.error = error
        self.stop.set()

    def _stop_if_asked(self) -> None:
        if self.stop.is_set():
            raise KeyboardInterrupt

    def _look(self) -> None:
        if self.room.look() and time.monotonic() < self._orphans_until:
            free_orphans()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._stop_if_asked()
        if "failure" not in result:
            prefix = "device_seconds/"  # Tune hands flattened results to searchers
            seconds = {k.removeprefix(prefix): s for k, s in result.items() if k.startswith(prefix)}
            self.observer.progress(self._running[trial_id], {**result, "device_seconds": seconds})
            self.trackers.evaluated(self._running[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self._running.pop(trial_id)
        death = self.trials.forget(trial_id)
        reported = (result or {}).get("failure")
        failure = Failure.model_validate_json(reported) if reported else None
        no_room = failure is not None and failure.kind == "no_room"
        if (error or no_room) and self.room.demand(job).workers > 1:
            self._orphans_until = time.monotonic() + ORPHAN_SECONDS
        if no_room:  # the group waits for other machines
            self.observer.died(job, waited=job.key in self._lacked_room)
            self._lacked_room.add(job.key)
            self.scheduler.release(job)
            return
        self._lacked_room.discard(job.key)
        if error and not self._had_ended(job):
            failure = self._failure_by(death, job)
            if failure is None:
                self.observer.died(job)
                self.scheduler.release(job)
                return
        self._conclude(job, failure)

    def _conclude(self, job: Job, failure: Failure | None) -> None:
        try:
            try:
                end_attempts(self.ledger.storage, job.spec.id)
            except StorageGoneError:
                raise
            except OSError:  # a later attempt begins with a token of its own
                pass
            record, problem = conclude(job, self.scheduler, self.ledger, failure)
        except StorageGoneError as error:
            self._end(error)
            return
        self.observer.completed(self.scheduler.study, job, record, problem)
        self.trackers.ended(job, record)
        drop_losers(self.scheduler, self.ledger)

    def _had_ended(self, job: Job) -> bool:
        """Whether the ledger had the result when the process died: its checkpoint is gone then."""
        try:
            record = self.ledger.read(job.spec.id)
            if record is None or record.status not in ENDED:
                return False
            if job.kind == "evaluate":
                return record.test is not None and self.ledger.has_predictions(record)
            if job.kind == "soft targets":
                return self.ledger.has_soft_targets(record, job.images)
            known = self.scheduler.study.records.get(job.spec.id)
            if known is not None and known.finished_at == record.finished_at:
                return False  # the result of an earlier training
            return record.status != "finished" or self.ledger.has_weights(record)
        except OSError:
            return False

    def _failure_by(self, death: BaseException | None, job: Job) -> Failure | None:
        """The failure of a job whose process died too often; None if it goes on.

        Deaths are counted anew after each checkpoint: a long training on machines that may be taken
        away at any time may die often, and still finish.
        """
        checkpoint = self.ledger.storage.stamp(latest_checkpoint(job.spec.id))
        deaths = self._deaths.setdefault(job.key, Deaths(checkpoint))
        options = self.scheduler.study.plan.experiment.train_of(job.search.cell.model)
        too_many = deaths.are_too_many(False, checkpoint, options.max_failures)
        if not too_many:
            return None
        logs = keep_ray_logs(os.path.dirname(self.scratch), self.ledger.storage)
        return process_died(death, deaths.count, logs)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for ``Tuner.restore``, which is not used here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the ledger is the state, and nothing is restored from here."""


def drop_losers(scheduler: Scheduler, ledger: Ledger) -> None:
    """Deletes weights that no search can choose any more: a large grid would fill the disk."""
    for trial_id in scheduler.losers():
        with contextlib.suppress(OSError):  # they only take up room; the next run drops them
            ledger.delete_weights(trial_id)
