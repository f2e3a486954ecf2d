"""What a driver tells whoever follows its trials, in threads that hold up nothing."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from semigrid.data.storage import Storage
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import Job
from semigrid.trainers.choose import Cutoffs
from semigrid.trainers.trial import TrialSpec

# How long the end of a run waits for what is still to be written.
LAST_SECONDS = 60.0
# An evaluation's report has these; reports in between say how fast it goes, and no more.
OF_EVALUATIONS = "student_acc1"
# Ends the stamp of a trial that was measured on test.
MEASURED = "-test"


@dataclass(frozen=True)
class Run:
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
        """Unique in a project: cell, seed and identity."""
        return f"{self.cell} seed {self.spec.seed} {self.id[:8]}"

    def hyper_parameters(self) -> dict[str, Any]:
        """The recipe's values: numbers, strings and None as they are, the others as text."""
        recipe = self.spec.recipe.model_dump(mode="json")
        plain = {
            name: value if value is None or isinstance(value, int | float | str) else str(value)
            for name, value in recipe.items()
        }
        facts = {"backbone": self.spec.backbone, "labels": self.spec.labels, "seed": self.spec.seed}
        return {**plain, **facts}

    def tags(self) -> dict[str, str]:
        return {
            "experiment": self.experiment,
            "cell": self.cell,
            "trial": self.id,
            "seed": str(self.spec.seed),
            "parent": self.spec.parent or "",
        }


# Trials that ended, with what the ledger says of them.
Past = Sequence[tuple[Run, Record]]


class Tracker(Protocol):
    """One tool. What it raises is said once, and it is not asked again in this run."""

    def catch_up(self, past: Past) -> None:
        """Adds what ended while nobody followed: before it was asked for, or a driver was killed.

        Changes nothing that is there and complete.
        """
        ...

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """A running trial was evaluated on val."""
        ...

    def ended(self, run: Run, record: Record) -> None:
        """A trial ended, however it did, or was measured on test."""
        ...

    def close(self) -> None:
        """The run is over, or stopped."""
        ...


Make = Callable[[], Tracker]
Say = Callable[[str], None]


class Trackers:
    """Passes on to each of them, in the order in which it happened.

    Args:
        make: makes the tracker of a name, and what it is to catch up with.
    """

    def __init__(self, experiment: str, make: Mapping[str, tuple[Make, Past]], say: Say):
        self.experiment, self.say = experiment, say
        self._followers = [_Follower(name, *made, say) for name, made in make.items()]
        for follower in self._followers:
            follower.start()

    def evaluated(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Takes any report of a running job; those that are no evaluation are left out."""
        if OF_EVALUATIONS in metrics:
            run, kept = self._run(job), numbers(metrics)
            step = int(kept.pop("step"))
            self._tell(lambda tracker: tracker.evaluated(run, step, kept))

    def ended(self, job: Job, record: Record | None) -> None:
        if record is not None:
            run = self._run(job)
            self._tell(lambda tracker: tracker.ended(run, record))

    def _run(self, job: Job) -> Run:
        return Run(self.experiment, job.spec, job.search.name, job.cutoffs)

    def _tell(self, event: Callable[[Tracker], None]) -> None:
        for follower in self._followers:
            follower.tell(event)

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Waits until all is passed on, but no longer than so many seconds."""
        for follower in self._followers:
            follower.tell(None)
        until = time.monotonic() + seconds
        for follower in self._followers:
            follower.join(timeout=max(0.0, until - time.monotonic()))
        late = ", ".join(f.name for f in self._followers if f.is_alive())
        if late:
            self.say(
                f"trackers: {late}: not all was written within {seconds:g} seconds; the next run "
                "goes on with it"
            )


class _Follower(threading.Thread):
    """A tracker in a thread of its own: it may take its time, and the others do not wait for it."""

    def __init__(self, name: str, make: Make, past: Past, say: Say):
        super().__init__(name=name, daemon=True)
        self._make: Make | None = make
        self._past, self._say = past, say
        self._events: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue()
        self._gone = False

    def tell(self, event: Callable[[Tracker], None] | None) -> None:
        if not self._gone:
            self._events.put(event)

    def run(self) -> None:
        try:
            assert self._make is not None
            tracker = self._make()
            tracker.catch_up(self._past)
            self._make, self._past = None, ()  # a whole ledger is not kept
            while (event := self._events.get()) is not None:
                event(tracker)
            tracker.close()
        except Exception as error:  # whatever the library raises: it stops no training
            self._gone, self._events, self._past = True, queue.Queue(), ()
            what = f"{type(error).__name__}: {error}"
            self._say(f"trackers: {self.name} failed and is left out from here on: {what}")


def stamp(record: Record) -> str:
    """Tells one end of a trial from another: trained, trained again, measured."""
    return f"{record.finished_at or 0:.0f}{MEASURED if record.test else ''}"


def folder_at(storage: Storage, name: str) -> Path:
    """A folder in local storage, made if need be.

    The storage itself never is: while it is away, unmounted or moved, it is waited for.
    """
    storage.exists("experiment.yaml")
    made = storage.local_path()
    assert made is not None, "trackers with files are left out in a bucket"
    for part in Path(name).parts:
        made /= part
        made.mkdir(exist_ok=True)
    return made


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a report's values that say something of the training.

    Tune makes one level of a result, ``config/request/CPU``: what has levels is not the loop's.
    """
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in TUNES_OWN
        and "/" not in name
    }


# what Tune adds to each result, and what is the same at each step
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
    """A record's evaluations by step, with the speed that was read there."""
    found: dict[int, dict[str, float]] = {}
    for evaluation in [*record.speed, *record.history]:
        found.setdefault(int(evaluation["step"]), {}).update(numbers(evaluation))
    for metrics in found.values():
        metrics.pop("step")
    return found
