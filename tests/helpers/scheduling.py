"""Study states and schedulers from trials in memory."""

from collections.abc import Callable, Collection, Mapping

from semigrid.grid.study.ledger import Record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.rules import StudyRules
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job, StudyState

Trials = Mapping[str, Record]


def always(record: Record) -> bool:
    return True


def study_of(
    plan: Plan,
    trials: Trials | None = None,
    has_weights: Callable[[Record], bool] = always,
    only: Collection[str] | None = None,
) -> StudyState:
    return StudyRules(has_weights).assess(plan, trials or {}, only)


def scheduler_of(
    plan: Plan,
    trials: Trials | None = None,
    has_weights: Callable[[Record], bool] = always,
    has_predictions: Callable[[Record], bool] = always,
    only: Collection[str] | None = None,
    has_soft_targets: Callable[[Record, int], bool] = lambda record, images: True,
) -> Scheduler:
    rules = StudyRules(has_weights, has_predictions, has_soft_targets)
    return Scheduler(rules.assess(plan, trials or {}, only), rules)


def start_next(scheduler: Scheduler) -> Job | None:
    """Starts the first job that is ready."""
    job = next(scheduler.ready(), None)
    return None if job is None else scheduler.start(job)
