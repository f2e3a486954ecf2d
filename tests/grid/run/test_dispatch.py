"""What a worker process is sent, and what becomes of its result."""

from pathlib import Path

from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.scheduling import scheduler_of, start_next

from semigrid.data.storage import open_storage
from semigrid.grid.run.dispatch import conclude, process_died, trial_job
from semigrid.grid.study.ledger import Ledger, start_record
from semigrid.trainers.trial.job import TrialJob


def test_a_job_travels_as_json(tmp_path: Path) -> None:
    plan = plan_of(experiment_text())
    job = next(scheduler_of(plan).ready())
    message = trial_job(plan, job, open_storage(tmp_path))
    message = message.model_copy(update={"cutoffs": {20: (51.5, 1.25)}})
    arrived = TrialJob.model_validate_json(message.model_dump_json())
    assert arrived == message and arrived.spec.id == job.spec.id


def test_a_trial_whose_process_died_too_often_fails_and_its_log_says_why(tmp_path: Path) -> None:
    scheduler, ledger = scheduler_of(plan_of(experiment_text())), Ledger(open_storage(tmp_path))
    job = start_next(scheduler)
    assert job is not None
    ledger.write(start_record(job.spec, job.search.name))
    said = "The actor died.\ns3://id:SECRET@bucket/a\nIts node ran out of memory."
    death = process_died(RuntimeError(said), 4, "results/logs/ray/session_1")
    record, problem = conclude(job, scheduler, ledger, death)
    assert record is not None and record.status == "failed" and record.log is not None
    why = "its process died 4 times in a row without a new checkpoint: Its node ran out of memory."
    why += "; Ray's logs: results/logs/ray/session_1"
    assert record.error == why and problem == f"{why} (log: {record.log})"
    assert Path(record.log).read_text() == (
        said.replace("id:SECRET@", "") + "\n\nRay's logs: results/logs/ray/session_1\n"
    )
    assert scheduler.study.failed == {job.key: problem}


def test_a_record_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    scheduler, ledger = scheduler_of(plan_of(experiment_text())), Ledger(open_storage(tmp_path))
    job = start_next(scheduler)
    assert job is not None
    assert conclude(job, scheduler, ledger) == (None, "its record is gone from the ledger")
    assert list(scheduler.study.failed) == [job.key]
