"""Grids that are played: the scheduler is told what trainings would have said."""

import random
from collections.abc import Callable
from typing import Any

from tests.helpers.experiments import plan_of

from semigrid.grid.study.ledger import Record, record_summary, start_record
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.scheduler import Job, Scheduler

Facts = dict[str, dict[str, Any]]


def finished(job: Job) -> dict[str, Any]:
    """A result that depends on the trial alone, as a deterministic training's does."""
    rng = random.Random(job.spec.id)
    return {
        "status": "finished",
        "val": {"acc1": rng.uniform(50, 99), "ce": rng.random()},
        "best_weights": "student",
        "test": {"acc1": 1.0} if job.kind == "measure" else None,
        "seconds": 1.0,
    }


def play(
    plan: Plan,
    facts: Facts,
    slots: int,
    seed: int = 0,
    jobs: int | None = None,
    weights: Callable[[str], bool] | None = None,
    fail: str | None = None,
) -> tuple[Scheduler, list[Job]]:
    """Runs jobs with ``slots`` at a time that end in random order, until done or ``jobs`` ended."""
    has_weights = weights or (lambda i: facts.get(i, {}).get("status") == "finished")
    scheduler = Scheduler(plan, facts, has_weights)
    rng = random.Random(seed)
    running: list[Job] = []
    ended: list[Job] = []
    while not scheduler.done and (jobs is None or len(ended) < jobs):
        while len(running) < slots and (job := scheduler.next()):
            running.append(job)
        job = running.pop(rng.randrange(len(running)))
        if fail is not None and job.search.name == fail:
            scheduler.complete(job, None, "boom")
        else:
            result = finished(job)
            if job.kind == "measure":
                result |= {k: facts[job.spec.id][k] for k in ("val", "seconds")}
            scheduler.complete(job, result)
        ended.append(job)
    return scheduler, ended


def ran(text: str, records: dict[str, Record] | None = None, only: list[str] | None = None) -> Any:
    """The records of a finished run of a file, over those there were, and the jobs it took."""
    records = dict(records or {})
    facts: Facts = {i: record_summary(record) for i, record in records.items()}
    plan = plan_of(text)
    chosen = None if only is None else plan.matching(only)
    scheduler = Scheduler(plan, facts, lambda i: i in records, only=chosen)
    jobs = []
    while job := scheduler.next():
        record = records.get(job.spec.id) or start_record(job.spec, job.search.name)
        result = finished(job)
        record.status, record.val = "finished", result["val"]
        record.test = result["test"] if job.kind == "measure" else record.test
        records[record.id] = record
        jobs.append(job)
        scheduler.complete(job, record_summary(record))
    assert scheduler.done
    return records, jobs, scheduler
