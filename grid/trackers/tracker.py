"""Passes on what happens to trials, in threads that hold up nothing."""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from semigrid.data.storage import Storage
from semigrid.data.storage.files import Confirm, always
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.lock import LostLockError
from semigrid.grid.study.state import Job
from semigrid.trainers.trial.identity import TrialSpec

# Longest wait at the end of a run for what is still to be written, in seconds.
LAST_SECONDS = 60.0
# A metric that every evaluation has, and nothing else; reports in between have only the speed.
OF_EVALUATIONS = "student_acc1"
# End of the stamp of a trial that was evaluated on test.
MEASURED = "-test"


class Tracker:
    """One tool. An exception is reported once, and the tool is left out from then on."""

    def known_end(self, record: Record) -> str:
        """The ``stamp`` of the end of a trial that the tool has in full; empty without one."""
        return ""

    def catch_up(self, records: Mapping[str, Record]) -> None:
        """Adds trials that ended before this tool was asked for, or while no driver ran."""
        for record in records.values():
            if record.status in ENDED and self.known_end(record) != stamp(record):
                self.write(record)

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        """A running trial was evaluated on val."""

    def ended(self, job: Job, record: Record) -> None:
        """A trial ended, in whatever way, or was evaluated on test."""
        self.write(record)

    def write(self, record: Record) -> None:
        """Makes the tool show all that the record has."""

    def close(self) -> None:
        """The run is over, or stopped."""


Event = Callable[[Tracker], None]


class Trackers:
    """Passes events on to each tracker, in the order in which they happened.

    Each has a thread of its own: it may take its time, and others do not wait for it.

    Args:
        make: what makes each tracker, by name.
        records: the ledger's, which they catch up with.
        say: receives messages about trackers that failed or are late.
        confirm: is asked before each event; no tracker writes once the run has lost its folder.
    """

    def __init__(
        self,
        make: Mapping[str, Callable[[], Tracker]],
        records: Mapping[str, Record],
        say: Callable[[str], None],
        confirm: Confirm = always,
    ):
        self.say, self._confirm = say, confirm
        self._queues: dict[str, queue.Queue[Event | None]] = {name: queue.Queue() for name in make}
        self._threads = [
            threading.Thread(target=self._follow, args=(name, make[name]), name=name, daemon=True)
            for name in make
        ]
        self._tell(lambda tracker: tracker.catch_up(records))
        for thread in self._threads:
            thread.start()

    def _follow(self, name: str, make: Callable[[], Tracker]) -> None:
        events, ended = self._queues[name], False
        try:
            self._confirm()
            tracker = make()
            while (event := events.get()) is not None:
                self._confirm()
                event(tracker)
            ended = True
            self._confirm()
            tracker.close()
        except Exception as error:  # whatever a library raises, it stops no training
            if not isinstance(error, LostLockError):  # of which the run itself tells
                reason = f"{type(error).__name__}: {error}"
                self.say(f"trackers: {name} failed and is left out from here on: {reason}")
            while (
                not ended and events.get() is not None
            ):  # records of a large grid would fill the memory
                pass

    def evaluated(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Takes any report of a running job, and passes evaluations on."""
        if OF_EVALUATIONS in metrics:
            kept = numbers(metrics)
            step = int(kept.pop("step"))
            self._tell(lambda tracker: tracker.evaluated(job, step, kept))

    def ended(self, job: Job, record: Record | None) -> None:
        if record is not None:
            self._tell(lambda tracker: tracker.ended(job, record))

    def _tell(self, event: Event | None) -> None:
        """Queues an event; None is the last one."""
        for events in self._queues.values():
            events.put(event)

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


def stamp(record: Record) -> str:
    """Tells a trial's ends apart: trained, trained again, evaluated on test."""
    return f"{record.finished_at or 0:.0f}{MEASURED if record.test else ''}"


def described(spec: TrialSpec, cell: str) -> tuple[str, dict[str, Any], dict[str, str]]:
    """A trial's name, unique in an experiment; its hyper-parameters; and its tags.

    Hyper-parameters are numbers, texts and None; others are given as text.
    """
    values = {
        name: value if value is None or isinstance(value, int | float | str) else str(value)
        for name, value in spec.recipe.model_dump(mode="json").items()
    }
    names = ("backbone", "method", "labels", "validation", "pool", "pool_images", "metric", "seed")
    values |= {name: getattr(spec, name) for name in names}
    tags = {"cell": cell, "trial": spec.id, "seed": str(spec.seed), "parent": spec.parent or ""}
    return f"{cell} seed {spec.seed} {spec.id[:8]}", values, tags


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
    "training_iteration",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
}


def course_of(record: Record) -> dict[int, dict[str, float]]:
    """A record's evaluations by step, with the training speed at that step."""
    course: dict[int, dict[str, float]] = {}
    for evaluation in [*record.speed, *record.history]:
        course.setdefault(int(evaluation["step"]), {}).update(numbers(evaluation))
    for metrics in course.values():
        metrics.pop("step")
    return course
