"""What a driver tells whoever follows its trials, in a thread that holds up nothing."""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from grid.ledger import Record
from grid.plan import Search
from trainers.trial import TrialSpec

# How long the end of a run waits for what is still to be written.
LAST_SECONDS = 60.0
# An evaluation's report has these; reports in between say how fast it goes, and no more.
OF_EVALUATIONS = "student_acc1"


@dataclass(frozen=True)
class Run:
    """A trial as other tools know it."""

    experiment: str
    spec: TrialSpec
    search: Search

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def name(self) -> str:
        """Unique in a project: cell, seed and identity."""
        return f"{self.search.name} seed {self.spec.seed} {self.id[:8]}"

    def hyper_parameters(self) -> dict[str, Any]:
        """The recipe's values, those that are no number or string as text."""
        recipe = self.spec.recipe.model_dump(mode="json")
        plain = {n: v if isinstance(v, int | float | str) else str(v) for n, v in recipe.items()}
        facts = {"backbone": self.spec.backbone, "labels": self.spec.labels, "seed": self.spec.seed}
        return {**plain, **facts}

    def tags(self) -> dict[str, str]:
        return {
            "experiment": self.experiment,
            "cell": self.search.name,
            "trial": self.id,
            "seed": str(self.spec.seed),
            "parent": self.spec.parent or "",
        }


class Tracker(Protocol):
    """One tool. What it raises is said once, and it is not asked again in this run."""

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        """A running trial was evaluated on val."""
        ...

    def ended(self, run: Run, record: Record) -> None:
        """A trial ended, however it did, or was measured on test."""
        ...

    def close(self) -> None:
        """The run is over, or stopped."""
        ...


class Trackers:
    """Passes on to all of them, in the order in which it happened, from a thread of its own.

    Args:
        make: makes the tracker of a name, in that thread: a server may take its time to answer.
    """

    def __init__(
        self, experiment: str, make: Mapping[str, Callable[[], Tracker]], say: Callable[[str], None]
    ):
        self.experiment, self.say = experiment, say
        self._make = dict(make)
        self._names = ", ".join(make)
        self._trackers: dict[str, Tracker] = {}
        self._events: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="trackers", daemon=True)
        self._thread.start()

    def evaluated(self, search: Search, spec: TrialSpec, metrics: Mapping[str, Any]) -> None:
        """Takes any report of a running trial; those that are no evaluation are left out."""
        if OF_EVALUATIONS in metrics:
            run, kept = Run(self.experiment, spec, search), numbers(metrics)
            step = int(kept.pop("step"))
            self._events.put(lambda tracker: tracker.evaluated(run, step, kept))

    def ended(self, search: Search, record: Record) -> None:
        run = Run(self.experiment, record.spec, search)
        self._events.put(lambda tracker: tracker.ended(run, record))

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Waits until all is passed on, but no longer than so many seconds."""
        self._events.put(lambda tracker: tracker.close())
        self._events.put(None)
        self._thread.join(timeout=seconds)
        if self._thread.is_alive():
            self.say(f"trackers: {self._names}: not all was written within {seconds:g} seconds")

    def _work(self) -> None:
        while self._make:  # what one has been made from, a whole ledger, is not kept
            name = next(iter(self._make))
            with self._or_without(name):
                self._trackers[name] = self._make.pop(name)()
        while (event := self._events.get()) is not None:
            for name, tracker in list(self._trackers.items()):
                with self._or_without(name):
                    event(tracker)

    @contextmanager
    def _or_without(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever the library raises: it stops no training
            self._trackers.pop(name, None)
            what = f"{type(error).__name__}: {error}"
            self.say(f"trackers: {name} failed and is left out from here on: {what}")


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a report's values that say something of the training."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in TUNES_OWN
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
