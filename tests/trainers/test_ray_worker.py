"""Worker groups that fail, or find no room."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.experiments import pair_text, plan_of
from tests.helpers.runs import records
from tests.helpers.scheduling import scheduler_of

from semigrid.data.storage import open_storage
from semigrid.grid.study.ledger import Record
from semigrid.trainers.cluster.ray_nodes import has_room, keep_free, kept_free
from semigrid.trainers.trial.fence import begin_attempt
from semigrid.trainers.trial.job import Failure, TrialJob

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def this_node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def group_job(folder: Path, max_failures: int) -> TrialJob:
    """A training on two workers."""
    from semigrid.grid.run.dispatch import trial_job

    plan = plan_of(pair_text())
    job = next(scheduler_of(plan).ready())
    message = trial_job(plan, job, open_storage(folder / "small"))
    options = message.options.model_copy(update={"max_failures": max_failures})
    return message.model_copy(update={"options": options, "scratch": str(folder / "train")})


def do_with_group(folder: Path, job: TrialJob) -> tuple[Record, Failure | None]:
    """The record and the failure after a group did the job, or could not."""
    from semigrid.grid.run.work import do_job
    from semigrid.trainers.ray_worker import run_group

    failure = do_job(job, lambda _: None, run_group)
    (record,) = records(folder / "small").values()
    return record, failure


def test_losses_do_not_count_as_exceptions() -> None:
    from semigrid.trainers.ray_worker import Deaths

    deaths = Deaths("a")
    # of twenty deaths that are allowed, three were losses; then workers raise
    losses = [deaths.are_too_many(False, "a", 20) for _ in range(3)]
    exceptions = [deaths.are_too_many(True, "a", 20) for _ in range(4)]
    assert losses == [False] * 3 and exceptions == [False] * 3 + [True]
    assert not deaths.are_too_many(True, "b", 20)  # a checkpoint was written
    assert not deaths.are_too_many(False, "c", 1)  # the one that is allowed
    assert deaths.are_too_many(False, "c", 1)


def test_an_exception_of_a_workers_code_is_the_records_error(cluster: None, tmp_path: Path) -> None:
    job = group_job(tmp_path, max_failures=0)
    place = replace(job.place, dataset_uri=str(tmp_path / "nowhere"))
    record, _ = do_with_group(tmp_path, job.model_copy(update={"place": place}))
    assert record.status == "failed"
    assert record.error is not None and record.error.startswith("InputError")
    assert "nowhere" in record.error


def test_a_node_that_is_kept_free_is_given_no_work(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from semigrid.grid.run.tune import job_placement
    from semigrid.trainers import ray_worker

    # what the test before this one used may take a while to be free again
    assert kept_free() == [] and has_room(2, {"CPU": 1.0})
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    monkeypatch.setattr(ray_worker, "ROOM_SECONDS", 1.0)
    config = {"request": {"CPU": 1.0}}
    keep_free(["gone", this_node()])
    try:
        heard = ray.get(ray.remote(num_cpus=0)(kept_free).remote())
        assert heard == ["gone", this_node()], "another process does not know it"
        assert not has_room(1, {"CPU": 1.0})
        group = job_placement(config).to_placement_group()
        assert not group.wait(3)
        ray.util.remove_placement_group(group)
        # a worker group goes back to be scheduled anew: no failure of its training
        job = group_job(tmp_path, max_failures=1)
        token = begin_attempt(open_storage(tmp_path / "small"), job.spec.id)
        place = replace(job.place, attempt=(job.spec.id, token))
        record, failure = do_with_group(tmp_path, job.model_copy(update={"place": place}))
        assert record.status == "started"
        assert failure is not None and failure.kind == "no_room"
        assert "no room for 2 ×" in failure.message
        keep_free(["gone"])
        group = job_placement(config).to_placement_group()
        assert group.wait(10)
        ray.util.remove_placement_group(group)
    finally:
        keep_free([])


def test_a_group_without_room_gives_up_and_says_what_was_missing(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util import placement_group, remove_placement_group

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "2")
    held = placement_group([{"CPU": 1}])
    ray.get(held.ready())
    try:
        record, _ = do_with_group(tmp_path, group_job(tmp_path, max_failures=1))
    finally:
        remove_placement_group(held)
    assert record.status == "failed" and record.error is not None
    assert "could not start, 2 times in a row" in record.error
    assert "2 × {'CPU': 1.0}" in record.error and "'CPU': 1.0} free" in record.error
