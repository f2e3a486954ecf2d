"""Study states and schedulers from trials in memory."""

from collections.abc import Callable, Collection, Mapping

from semigrid.grid.study.ledger import Record, summarize
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState
from semigrid.grid.study.summary import TrialSummary

Trials = Mapping[str, TrialSummary] | Mapping[str, Record]


def always(trial_id: str) -> bool:
    return True


def study_of(
    plan: Plan,
    trials: Trials | None = None,
    has_weights: Callable[[str], bool] = always,
    only: Collection[str] | None = None,
) -> StudyState:
    return StudyRules(has_weights).assess(plan, _summaries(trials), only)


def scheduler_of(
    plan: Plan,
    trials: Trials | None = None,
    has_weights: Callable[[str], bool] = always,
    has_predictions: Callable[[str], bool] = always,
    only: Collection[str] | None = None,
) -> Scheduler:
    rules = StudyRules(has_weights, has_predictions)
    return Scheduler(rules.assess(plan, _summaries(trials), only), rules)


def start_next(scheduler: Scheduler) -> Job | None:
    """Starts the first job that is ready."""
    job = next(scheduler.ready(), None)
    return None if job is None else scheduler.start(job)


def _summaries(trials: Trials | None) -> dict[str, TrialSummary]:
    return {
        trial_id: summarize(trial) if isinstance(trial, Record) else trial
        for trial_id, trial in (trials or {}).items()
    }
