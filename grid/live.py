"""One live view of a run: cells by state, running trials, images per second, time left."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grid.ledger import ENDED, Record
from grid.scheduler import Job, Scheduler


@dataclass
class _Running:
    job: Job
    since: float
    facts: dict[str, Any] = field(default_factory=dict)


class LiveView:
    """Redraws itself on a terminal; elsewhere prints a line for each cell that ends."""

    def __init__(self, console: Console):
        self.console = console
        self.activity = "starting Ray"
        self._running: dict[tuple[str, str], _Running] = {}
        self._announced: set[str] = set()
        self._live: Live | None = None
        self._started = time.monotonic()

    def attach(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._work_at_start = self._work_left()
        self._announced = {
            name for name, state in scheduler.states.items() if state.state == "finished"
        }

    def __enter__(self) -> "LiveView":
        self._started = time.monotonic()
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._render,
                refresh_per_second=2,
                transient=True,
            )
            self._live.start()
        else:
            self.console.print(f"{self._counts()}; training")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, job: Job) -> None:
        self.activity = "waiting for a process"
        self._running[job.key] = _Running(job, time.monotonic())

    def progress(self, job: Job, facts: dict[str, Any]) -> None:
        if job.key in self._running:
            self._running[job.key].facts.update(facts)

    def died(self, job: Job) -> None:
        """A job's process is gone; the job starts again."""
        self._running.pop(job.key, None)
        self.console.print(
            Text(f"{job.search.name}: a process died; its trial goes on from its last checkpoint")
        )

    def completed(self, job: Job, record: Record | None, problem: str | None) -> None:
        self._running.pop(job.key, None)
        for found in record.damaged if record is not None and job.kind == "train" else ():
            self.console.print(Text(f"{job.search.name}: {found}"))
        if problem is not None:
            failed = "failed: " if job.spec.id in self.scheduler.failed else ""
            self.console.print(Text(f"{failed}{job.search.name}: {problem}", style="red"))
        for name, state in self.scheduler.states.items():
            if state.state == "finished" and state.search.in_table and name not in self._announced:
                self._announced.add(name)
                self.console.print(f"{name} finished; {self._counts()}{self._time_left()}")

    def _counts(self) -> str:
        states = [s for s in self.scheduler.states.values() if s.search.in_table]
        count = Counter(s.state for s in states)
        shown = [f"{count['finished']} of {len(states)} cells finished"]
        shown += [f"{count[s]} {s}" for s in ("failed", "blocked") if count[s]]
        return ", ".join(shown)

    def _work_left(self) -> float:
        """Images that the trainings still to come will process, the running ones included."""
        plan = self.scheduler.plan
        left = 0.0
        for search in plan.searches:
            state = self.scheduler.states[search.name]
            if state.ended:
                continue
            facts = (self.scheduler.facts.get(spec.id, {}) for spec in state.specs)
            done = sum(known.get("status") in ENDED for known in facts)
            left += max(0, plan.trainings_per_search - done) * plan.images_per_trial(search)
        for running in self._running.values():
            steps = running.facts.get("total_steps")
            if steps:
                share = running.facts.get("step", 0) / steps
                left -= share * plan.images_per_trial(running.job.search)
        return max(left, 0.0)

    def _time_left(self) -> str:
        elapsed = time.monotonic() - self._started
        left = self._work_left()
        done = self._work_at_start - left
        if done <= 0 or elapsed < 5 or left == 0:
            return ""
        return f", about {show_seconds(elapsed * left / done)} left"

    def _render(self) -> RenderableType:
        elapsed = show_seconds(time.monotonic() - self._started)
        title = f"{self._counts()}, {elapsed}{self._time_left()}"
        left = self._work_left()
        bar = ProgressBar(
            total=max(self._work_at_start, 1), completed=self._work_at_start - left, width=40
        )
        line = Table.grid()
        line.add_row(bar)
        if not self._running:
            return Group(Text(f"{title}: {self.activity}", style="bold"), line)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("running", "step", "loss", "val Acc@1", "images/s"):
            table.add_column(column, justify="left" if column == "running" else "right")
        for running in list(self._running.values()):
            table.add_row(*_running_row(running))
        return Group(Text(title, style="bold"), line, table)


def _running_row(running: _Running) -> list[str]:
    facts = running.facts
    name = running.job.search.name
    if running.job.kind == "measure":
        return [f"{name}, on test", "", "", "", ""]
    best = [facts[k] for k in ("student_acc1", "ema_acc1") if k in facts]
    return [
        f"{name}, seed {running.job.spec.seed}",
        f"{facts['step']}/{facts['total_steps']}" if "total_steps" in facts else "starting",
        f"{facts['loss']:.3f}" if "loss" in facts else "",
        f"{max(best):.1f}" if best else "",
        f"{facts['images_per_s']:,.0f}" if "images_per_s" in facts else "",
    ]


def show_seconds(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
