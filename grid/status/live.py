"""The live view of a run: on its own terminal, and as a file for other terminals and machines."""

import contextlib
import threading
import time
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from semigrid.data.storage import Storage
from semigrid.grid.status import show, snapshot
from semigrid.grid.status.cost import Estimate, estimate
from semigrid.grid.status.snapshot import RunningTrial, Snapshot
from semigrid.grid.study.layout import SNAPSHOT
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.lock import holder_of
from semigrid.grid.study.state import Job, StudyState
from semigrid.trainers.execution.progress import read_progress
from semigrid.trainers.layout import checkpoint_folder


class LiveView:
    """Redraws itself on a terminal; without one, prints a line for each cell that finishes.

    Writes a snapshot into the run's storage every few seconds and deletes it at the end.
    """

    def __init__(self, console: Console, study: StudyState, storage: Storage):
        self.console, self.study, self._storage, plan = console, study, storage, study.plan
        self._holder = holder_of(storage)
        self.activity = "starting Ray"
        self._asked = ""
        self._running: dict[tuple[str, str], RunningTrial] = {}
        self._live: Live | None = None
        self._started = time.monotonic()
        self._estimates: list[Estimate] = []
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="live view", daemon=True)
        self._groups = {
            search.name
            for search in plan.searches
            if plan.experiment.train_of(search.cell.model).workers > 1
        }
        self._work_at_start = self._work_left()

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
            self._say(f"{self._counts()}; training")
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._over.set()
        self._writer.join(timeout=snapshot.SILENT_SECONDS)
        with contextlib.suppress(OSError):  # a snapshot left behind shows its age
            self._storage.delete(SNAPSHOT)

    def started(self, job: Job) -> None:
        self.activity = "waiting for a process"
        self._running[job.key] = RunningTrial(
            cell=job.search.name,
            kind=job.kind,
            trial=job.spec.id,
            seed=job.spec.seed,
            metric=job.spec.metric,
            started_at=time.time(),
        )

    def asked(self, machines: str) -> None:
        if machines and not self._asked and not self.console.is_terminal:
            self._say(f"asked the cluster for {machines}")
        self._asked = machines

    def noted(self, words: str) -> None:
        self._say(words, "red")

    def progress(self, job: Job, facts: dict[str, Any]) -> None:
        if job.key in self._running:
            self._running[job.key].hear(facts, time.time())

    def died(self, job: Job, waited: bool = False) -> None:
        self._running.pop(job.key, None)
        if not waited:
            what = "a process died; its trial continues from its last checkpoint"
            self._say(f"{job.search.name}: {what}")

    def completed(
        self, study: StudyState, job: Job, record: Record | None, problem: str | None
    ) -> None:
        before, self.study = self.study, study
        self._running.pop(job.key, None)
        for damage in record.damaged if record is not None and job.kind == "train" else ():
            self._say(f"{job.search.name}: {damage}")
        if problem is not None:
            failed = "failed: " if job.key in study.failed else ""
            self._say(f"{failed}{job.search.name}: {problem}", "red")
        for cell in study.plan.cells:
            if study.searches[cell.name].stage == "finished" != before.searches[cell.name].stage:
                left = self._seconds_left()
                shown = "" if left is None else f", about {show.show_seconds(left)} left"
                self._say(f"{cell.name} finished; {self._counts()}{shown}")

    def _say(self, text: str, style: str = "") -> None:
        """A line for each event, however long: a log has no width."""
        self.console.print(text, style=style, soft_wrap=True)

    def snapshot(self) -> Snapshot:
        """How the run stands now, with the last report of each running trial."""
        taken = snapshot.take(self.study, list(self._running.values()), self._estimates)
        taken.started_at = time.time() - (time.monotonic() - self._started)
        taken.seconds_left = self._seconds_left()
        taken.share_done = 1 - self._work_left() / max(self._work_at_start, 1)
        taken.activity = self.activity
        taken.asked = self._asked
        taken.holder = self._holder
        return taken

    def _write_on(self) -> None:
        """Reads the progress of worker groups and writes the snapshot, until the end."""
        while True:
            with contextlib.suppress(OSError):  # the run goes on without its snapshots
                self._look_at_groups()
                self._holder = self._holder or holder_of(self._storage)
                self._estimates = estimate(self.study, count_flops=False)
                self._storage.write(SNAPSHOT, self.snapshot().model_dump_json().encode())
            if self._over.wait(snapshot.WRITE_SECONDS):
                return

    def _look_at_groups(self) -> None:
        """Reads the file that a worker group leaves between evaluations, when it reports to Ray."""
        for trial in list(self._running.values()):
            if trial.kind == "train" and trial.cell in self._groups:
                report = read_progress(self._storage.folder(checkpoint_folder(trial.trial)))
                if report.get("at", 0.0) > trial.started_at:
                    trial.hear(report, report["at"])

    def _counts(self) -> str:
        return show.counts(snapshot.cells_progress(self.study))

    def _work_left(self) -> float:
        """Forwards of the remaining trainings, running ones included."""
        forwards, running = self.study.plan.forwards, list(self._running.values())
        left = sum(self.study.trainings_left(name) * each for name, each in forwards.items())
        return max(left - sum(trial.share_done * forwards[trial.cell] for trial in running), 0.0)

    def _seconds_left(self) -> float | None:
        elapsed, left = time.monotonic() - self._started, self._work_left()
        done = self._work_at_start - left
        if done <= 0 or elapsed < 5 or left == 0:
            return None
        return elapsed * left / done

    def _render(self) -> RenderableType:
        return show.live(self.snapshot(), time.time())
