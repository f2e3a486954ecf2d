"""The grid in this process: the scheduler, the ledger and real trainings, without Ray."""

from pathlib import Path
from typing import Any

from tests.helpers.scheduling import scheduler_of, start_next

from semigrid.data.storage import open_storage
from semigrid.grid.analysis.result_set import read_result_set
from semigrid.grid.run.dispatch import conclude, trial_job
from semigrid.grid.run.work import do_job
from semigrid.grid.study.ledger import Ledger, Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.state import Job, StudyState
from semigrid.grid.tables.cells import cells_table
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.render import render
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.trial.job import TrialJob


def no_group(job: TrialJob) -> Outcome:
    raise AssertionError("one worker needs no group")


class Grid:
    """What ``semigrid run`` finds in a folder, and does about it, one job at a time."""

    def __init__(self, plan: Plan, folder: Path, patience: float | None = None):
        self.plan = plan
        self.ledger = Ledger(open_storage(folder, patience))
        self.scheduler = scheduler_of(
            plan,
            self.ledger.read_all(),
            self.ledger.has_weights,
            self.ledger.has_predictions,
            has_soft_targets=self.ledger.has_soft_targets,
        )
        self.problems: list[str] = []

    def run(self) -> "Grid":
        while job := start_next(self.scheduler):
            self.do(job)
        assert self.scheduler.done
        return self

    def do(self, job: Job) -> None:
        message = trial_job(self.plan, job, self.ledger.storage)
        failure = do_job(message, lambda metrics: self.report(job, metrics), no_group)
        record, problem = conclude(job, self.scheduler, self.ledger, failure)
        if problem is not None:
            self.problems.append(problem)
        if record is not None:
            self.ended(job, record)
        for trial_id in self.scheduler.losers():
            self.ledger.delete_weights(trial_id)

    def report(self, job: Job, metrics: dict[str, Any]) -> None:
        """What a running job says of itself."""

    def ended(self, job: Job, record: Record) -> None:
        """What became of a job."""

    @property
    def study(self) -> StudyState:
        return self.scheduler.study

    @property
    def records(self) -> dict[str, Record]:
        return self.ledger.read_all()

    @property
    def found(self) -> list[str]:
        """Everything that was said of damaged files."""
        damaged = [what for record in self.records.values() for what in record.damaged]
        return [*self.ledger.problems, *self.problems, *damaged]

    def numbers(self) -> dict[str, Any]:
        """All that must not change, to the last digit."""
        return {
            i: (r.status, r.cell, r.val, r.test, r.best_step, r.best_weights, r.history)
            for i, r in self.records.items()
        }

    def table(self) -> str:
        results = read_result_set(self.study, self.ledger.storage)
        return render(cells_table(results), Format.json).decode()
