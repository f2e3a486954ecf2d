"""Passes on what happens to trials, in threads that hold up nothing."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semigrid.data.storage import Storage
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import Job
from semigrid.grid.study.summary import ENDED
from semigrid.trainers.evaluation.choose import Cutoffs
from semigrid.trainers.trial.identity import TrialSpec

# Longest wait at the end of a run for what is still to be written, in seconds.
LAST_SECONDS = 60.0
# A metric that only evaluations have; reports in between have no more than the speed.
OF_EVALUATIONS = "student_acc1"
# End of the stamp of a trial that was evaluated on test.
MEASURED = "-test"


@dataclass(frozen=True)
class TrackedTrial:
    """A trial as other tools know it; ``cutoffs`` are those of the search that asked for it."""

    experiment: str
    spec: TrialSpec
    cell: str
    cutoffs: Cutoffs = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def name(self) -> str:
        """Cell, seed and identity: unique in an experiment."""
        return f"{self.cell} seed {self.spec.seed} {self.id[:8]}"

    def hyper_parameters(self) -> dict[str, Any]:
        """The recipe's values: numbers, texts and None as they are, others as text."""
        recipe = self.spec.recipe.model_dump(mode="json")
        plain = {
            name: value if value is None or isinstance(value, int | float | str) else str(value)
            for name, value in recipe.items()
        }
        return {
            **plain,
            "backbone": self.spec.backbone,
            "labels": self.spec.labels,
            "seed": self.spec.seed,
        }

    def tags(self) -> dict[str, str]:
        return {
            "experiment": self.experiment,
            "cell": self.cell,
            "trial": self.id,
            "seed": str(self.spec.seed),
            "parent": self.spec.parent or "",
        }


# Trials that ended, with their records in the ledger.
Past = Sequence[tuple[TrackedTrial, Record]]


class Tracker:
    """One tool. An exception is reported once, and the tool is left out from then on."""

    def known_end(self, trial: TrackedTrial) -> str:
        """The ``stamp`` of the end of a trial that the tool has in full; empty without one."""
        return ""

    def catch_up(self, past: Past) -> None:
        """Adds trials that ended before this tool was asked for, or while no driver ran."""
        for trial, record in past:
            if record.status in ENDED and self.known_end(trial) != stamp(record):
                self.ended(trial, record)

    def evaluated(self, trial: TrackedTrial, step: int, metrics: dict[str, float]) -> None:
        """A running trial was evaluated on val."""

    def ended(self, trial: TrackedTrial, record: Record) -> None:
        """A trial ended, in whatever way, or was evaluated on test."""

    def close(self) -> None:
        """The run is over, or stopped."""


MakeTracker = Callable[[], Tracker]


class Trackers:
    """Passes events on to each tracker, in the order in which they happened.

    Args:
        make: by name, what makes the tracker, and what it has to catch up with.
        say: receives messages about trackers that failed or are late.
    """

    def __init__(
        self,
        experiment: str,
        make: Mapping[str, tuple[MakeTracker, Past]],
        say: Callable[[str], None],
    ):
        self.experiment, self.say = experiment, say
        self._threads = [_TrackerThread(name, *made, say) for name, made in make.items()]
        for thread in self._threads:
            thread.start()

    def evaluated(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Takes any report of a running job, and passes evaluations on."""
        if OF_EVALUATIONS in metrics:
            trial, kept = self._trial(job), numbers(metrics)
            step = int(kept.pop("step"))
            self._tell(lambda tracker: tracker.evaluated(trial, step, kept))

    def ended(self, job: Job, record: Record | None) -> None:
        if record is not None:
            trial = self._trial(job)
            self._tell(lambda tracker: tracker.ended(trial, record))

    def _trial(self, job: Job) -> TrackedTrial:
        return TrackedTrial(self.experiment, job.spec, job.search.name, job.cutoffs)

    def _tell(self, event: Callable[[Tracker], None] | None) -> None:
        for thread in self._threads:
            thread.tell(event)

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Waits until everything is passed on, but no longer than this."""
        self._tell(None)
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))
        late = ", ".join(thread.name for thread in self._threads if thread.is_alive())
        if late:
            self.say(
                f"trackers: {late}: not everything was written within {seconds:g} seconds; the "
                "next run catches up"
            )


class _TrackerThread(threading.Thread):
    """A tracker in a thread of its own: it may take its time, and others do not wait for it."""

    def __init__(self, name: str, make: MakeTracker, past: Past, say: Callable[[str], None]):
        super().__init__(name=name, daemon=True)
        self._make, self._past, self._say = make, past, say
        self._events: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue()
        self._failed = False

    def tell(self, event: Callable[[Tracker], None] | None) -> None:
        """Queues an event; None is the last one."""
        if not self._failed:
            self._events.put(event)

    def run(self) -> None:
        try:
            tracker = self._make()
            tracker.catch_up(self._past)
            self._past = ()  # frees the ledger's records
            while (event := self._events.get()) is not None:
                event(tracker)
            tracker.close()
        except Exception as error:  # whatever a library raises, it stops no training
            self._failed, self._events, self._past = True, queue.Queue(), ()
            reason = f"{type(error).__name__}: {error}"
            self._say(f"trackers: {self.name} failed and is left out from here on: {reason}")


def stamp(record: Record) -> str:
    """Tells a trial's ends apart: trained, trained again, evaluated on test."""
    return f"{record.finished_at or 0:.0f}{MEASURED if record.test else ''}"


def folder_at(storage: Storage, name: str) -> Path:
    """A folder in local storage, created if need be.

    The storage itself is never created: while it is away, unmounted or moved, this waits for it.
    """
    storage.exists(EXPERIMENT_COPY)
    folder = storage.local_path()
    assert folder is not None, "trackers with files are left out in a bucket"
    for part in Path(name).parts:
        folder /= part
        folder.mkdir(exist_ok=True)
    return folder


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a report that describe the training.

    Names with a slash are Tune's, which flattens its results: ``config/request/CPU``.
    """
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in TUNES_OWN
        and "/" not in name
    }


# Keys that Tune adds to each result, and the one that is the same at each step.
TUNES_OWN = {
    "total_steps",
    "timestamp",
    "pid",
    "done",
    "training_iteration",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
    "episodes_total",
    "timesteps_total",
}


def course_of(record: Record) -> dict[int, dict[str, float]]:
    """A record's evaluations by step, with the training speed at that step."""
    course: dict[int, dict[str, float]] = {}
    for evaluation in [*record.speed, *record.history]:
        course.setdefault(int(evaluation["step"]), {}).update(numbers(evaluation))
    for metrics in course.values():
        metrics.pop("step")
    return course
