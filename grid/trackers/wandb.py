"""Weights & Biases: a run for each trial, as its own variables say (``WANDB_MODE=offline``)."""

from pathlib import Path
from typing import Any

import wandb

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import MEASURED, TrackedTrial, Tracker, course_of, stamp


class WandB(Tracker):
    """A trial's run has the trial's identity: online, an interrupted one is continued.

    Files in ``folder`` note which trials are complete: offline there is no server to ask.
    """

    def __init__(self, experiment: str, folder: Path):
        self.experiment, self.folder = experiment, folder
        self._ended = folder / "ended"
        self._ended.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, tuple[Any, set[int]]] = {}

    def known_end(self, trial: TrackedTrial) -> str:
        try:
            return (self._ended / trial.id).read_text()
        except FileNotFoundError:
            return ""

    def _run(self, trial: TrackedTrial) -> tuple[Any, set[int]]:
        """The trial's run, opened if need be, and the steps that were logged to it."""
        if trial.id not in self._open:
            run = wandb.init(
                project=self.experiment,
                id=trial.id,
                resume="allow",
                name=trial.name,
                group=trial.cell,
                config={**trial.hyper_parameters(), **trial.tags()},
                dir=str(self.folder),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
            self._open[trial.id] = run, set()
        return self._open[trial.id]

    def evaluated(self, trial: TrackedTrial, step: int, metrics: dict[str, float]) -> None:
        run, steps = self._run(trial)
        if step not in steps:
            run.log(metrics, step=step)
            steps.add(step)

    def ended(self, trial: TrackedTrial, record: Record) -> None:
        # the course was written at the end of training; a second end adds the scores on test
        if self.known_end(trial).removesuffix(MEASURED) != stamp(record).removesuffix(MEASURED):
            for step, metrics in sorted(course_of(record).items()):
                self.evaluated(trial, step, metrics)
        run, _ = self._run(trial)
        run.summary.update({f"best_{name}": value for name, value in record.val.items()})
        run.summary.update({f"test_{name}": v for name, v in (record.test or {}).items()})
        run.summary["status"] = record.status
        run.finish(exit_code=0 if record.status in ("finished", "stopped") else 1)
        self._open.pop(trial.id)
        if record.status in ENDED:
            (self._ended / trial.id).write_text(stamp(record))

    def close(self) -> None:
        for run, _ in self._open.values():
            run.finish(exit_code=1)
        self._open.clear()
