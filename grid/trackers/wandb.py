"""Weights & Biases: a run for each trial, as its own variables say (``WANDB_MODE=offline``)."""

from pathlib import Path
from typing import Any

import wandb

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.summary import ENDED
from semigrid.grid.trackers.tracker import MEASURED, Past, Run, course_of, stamp


class WandB:
    """A trial's run has its identity: online, one that was interrupted goes on.

    What was written is noted in files of ours: offline there is nobody to ask.
    """

    def __init__(self, experiment: str, folder: Path):
        self.experiment, self.folder = experiment, folder
        self._ended = folder / "ended"
        self._ended.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, tuple[Any, set[int]]] = {}

    def _known(self, run: Run) -> str:
        """The ``stamp`` of the trial's end as it was written, empty if it was not."""
        try:
            return (self._ended / run.id).read_text()
        except FileNotFoundError:
            return ""

    def catch_up(self, past: Past) -> None:
        for run, record in past:
            if record.status in ENDED and self._known(run) != stamp(record):
                self.ended(run, record)

    def _run(self, run: Run) -> tuple[Any, set[int]]:
        if run.id not in self._open:
            made = wandb.init(
                project=self.experiment,
                id=run.id,
                resume="allow",
                name=run.name,
                group=run.cell,
                config={**run.hyper_parameters(), **run.tags()},
                dir=str(self.folder),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
            self._open[run.id] = made, set()
        return self._open[run.id]

    def evaluated(self, run: Run, step: int, metrics: dict[str, float]) -> None:
        made, steps = self._run(run)
        if step not in steps:
            made.log(metrics, step=step)
            steps.add(step)

    def ended(self, run: Run, record: Record) -> None:
        # else that was written when it ended, and now it was measured
        if self._known(run).removesuffix(MEASURED) != stamp(record).removesuffix(MEASURED):
            for step, metrics in sorted(course_of(record).items()):
                self.evaluated(run, step, metrics)
        made, _ = self._run(run)
        made.summary.update({f"best_{name}": value for name, value in record.val.items()})
        made.summary.update({f"test_{name}": v for name, v in (record.test or {}).items()})
        made.summary["status"] = record.status
        made.finish(exit_code=0 if record.status in ("finished", "stopped") else 1)
        self._open.pop(run.id)
        if record.status in ENDED:
            (self._ended / run.id).write_text(stamp(record))

    def close(self) -> None:
        for made, _ in self._open.values():
            made.finish(exit_code=1)
        self._open.clear()
