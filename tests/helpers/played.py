"""Grids that are played: the scheduler is told what trainings would have said."""

import random
from collections.abc import Callable
from typing import Any

from tests.helpers.experiments import plan_of
from tests.helpers.scheduling import scheduler_of, start_next
from tests.helpers.scores import alike

from semigrid.grid.study.ledger import Record, start_record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job

Trials = dict[str, Record]  # a ledger's, by id


def finished(job: Job) -> Record:
    """A result that depends on the trial alone, as a deterministic training's does."""
    rng = random.Random(job.spec.id)
    record = start_record(job.spec, job.search.name)
    record.started_at = 0.0  # the same whenever it is played
    record.status = "finished"
    record.val = alike({"acc1": rng.uniform(50, 99), "ce": rng.random()})
    record.test = {"acc1": 1.0} if job.kind == "evaluate" else None
    return record


def diverged(job: Job) -> Record:
    record = start_record(job.spec, job.search.name)
    record.status, record.error = "diverged", "too fast"
    return record


def has_finished(trials: Trials, trial_id: str) -> bool:
    return trial_id in trials and trials[trial_id].status == "finished"


def play(
    plan: Plan,
    trials: Trials,
    slots: int,
    seed: int = 0,
    jobs: int | None = None,
    weights: Callable[[Record], bool] | None = None,
    fail: str | None = None,
) -> tuple[Scheduler, list[Job]]:
    """Runs jobs with ``slots`` at a time that end in random order, until done or ``jobs`` ended.

    ``trials`` is read as a ledger is when a run starts, and written to.
    """
    scheduler = scheduler_of(plan, trials, weights or (lambda r: has_finished(trials, r.id)))
    rng = random.Random(seed)
    running: list[Job] = []
    ended: list[Job] = []
    while not scheduler.done and (jobs is None or len(ended) < jobs):
        while len(running) < slots and (job := start_next(scheduler)):
            running.append(job)
        job = running.pop(rng.randrange(len(running)))
        if fail is not None and job.search.name == fail:
            scheduler.complete(job, None, "boom")
        else:
            trials[job.spec.id] = finished(job)
            scheduler.complete(job, trials[job.spec.id])
        ended.append(job)
    return scheduler, ended


def ran(text: str, records: dict[str, Record] | None = None, only: list[str] | None = None) -> Any:
    """The records of a finished run of a file, over those there were, and the jobs it took."""
    records = dict(records or {})
    plan = plan_of(text)
    chosen = None if only is None else plan.matching(only)
    scheduler = scheduler_of(plan, records, lambda record: record.id in records, only=chosen)
    jobs = []
    while job := start_next(scheduler):
        record = records.get(job.spec.id) or start_record(job.spec, job.search.name)
        result = finished(job)
        record.status, record.val = "finished", result.val
        record.test = result.test if job.kind == "evaluate" else record.test
        records[record.id] = record
        jobs.append(job)
        scheduler.complete(job, record)
    assert scheduler.done
    return records, jobs, scheduler
