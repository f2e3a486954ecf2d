"""Weights & Biases: a run for each trial, as its own variables say (``WANDB_MODE=offline``)."""

from pathlib import Path
from typing import Any

import wandb

from semigrid.grid.study.ledger import ENDED, Record
from semigrid.grid.study.state import Job
from semigrid.grid.trackers.tracker import MEASURED, Tracker, course_of, described, stamp
from semigrid.trainers.trial.identity import TrialSpec


class WandB(Tracker):
    """A trial's run has the trial's identity: online, an interrupted one is continued.

    Files in ``folder`` note which trials are complete: offline there is no server to ask.
    """

    def __init__(self, experiment: str, folder: Path):
        self.experiment, self.folder = experiment, folder
        self._ended = folder / "ended"
        self._ended.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, tuple[Any, set[int]]] = {}

    def known_end(self, record: Record) -> str:
        try:
            return (self._ended / record.id).read_text()
        except FileNotFoundError:
            return ""

    def _run(self, spec: TrialSpec, cell: str) -> tuple[Any, set[int]]:
        """The trial's run, opened if need be, and the steps that were logged to it."""
        if spec.id not in self._open:
            name, values, tags = described(spec, cell)
            run = wandb.init(
                project=self.experiment,
                id=spec.id,
                resume="allow",
                name=name,
                group=cell,
                config=values | tags,
                dir=str(self.folder),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
            self._open[spec.id] = run, set()
        return self._open[spec.id]

    def _log(self, spec: TrialSpec, cell: str, course: dict[int, dict[str, float]]) -> None:
        run, steps = self._run(spec, cell)
        for step in sorted(course.keys() - steps):
            run.log(course[step], step=step)
            steps.add(step)

    def evaluated(self, job: Job, step: int, metrics: dict[str, float]) -> None:
        self._log(job.spec, job.search.name, {step: metrics})

    def write(self, record: Record) -> None:
        run, _ = self._run(record.spec, record.cell)
        # the course was written at the end of training; a second end adds the scores on test
        if self.known_end(record).removesuffix(MEASURED) != stamp(record).removesuffix(MEASURED):
            self._log(record.spec, record.cell, course_of(record))
        run.summary.update({f"best_{name}": value for name, value in record.val.items()})
        run.summary.update({f"test_{name}": v for name, v in (record.test or {}).items()})
        run.summary["status"] = record.status
        run.finish(exit_code=0 if record.status in ("finished", "stopped") else 1)
        self._open.pop(record.id)
        if record.status in ENDED:
            (self._ended / record.id).write_text(stamp(record))

    def close(self) -> None:
        for run, _ in self._open.values():
            run.finish(exit_code=1)
        self._open.clear()
