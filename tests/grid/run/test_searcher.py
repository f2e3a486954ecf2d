"""What a run hands out, and what becomes of it where the storage fails; without Ray running."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.scheduling import scheduler_of

from semigrid.data.storage import open_storage
from semigrid.grid.run import searcher as module
from semigrid.grid.run.searcher import GridSearcher
from semigrid.grid.study.ledger import Ledger
from semigrid.grid.study.scheduler import Scheduler
from semigrid.grid.study.state import Job
from semigrid.grid.trackers.tracker import Trackers


class Observer:
    """Notes the problems of jobs that ended."""

    activity = ""

    def __init__(self) -> None:
        self.problems: list[str | None] = []

    def started(self, job: Job) -> None:
        pass

    def completed(self, study: Any, job: Job, record: Any, problem: str | None) -> None:
        self.problems.append(problem)


def searcher_of(tmp_path: Path) -> tuple[GridSearcher, Scheduler, Observer]:
    scheduler = scheduler_of(plan_of(experiment_text()))
    observer, ledger = Observer(), Ledger(open_storage(tmp_path))
    room = SimpleNamespace(
        next_job=lambda: next(scheduler.ready(), None),
        look=lambda: False,
        request=lambda job: [{"CPU": 1}],
    )
    found = GridSearcher(
        *(scheduler, ledger, cast(Any, observer), cast(Any, room), str(tmp_path)),
        *(threading.Event(), Trackers({}, {}, print)),
    )
    return found, scheduler, observer


def test_a_full_disk_fails_the_trial_that_meets_it_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> str:
        raise OSError(28, "No space left on device")

    found, scheduler, observer = searcher_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module, "begin_attempt", full)
        assert found.suggest("a") is None
    assert observer.problems == ["OSError: [Errno 28] No space left on device"]
    assert found.error is None and not scheduler.running and not scheduler.done
    assert found.suggest("b")["request"] == [{"CPU": 1}]
    [job] = scheduler.running.values()

    # nor does an attempt that cannot be given up
    monkeypatch.setattr(module, "end_attempts", full)
    failure = '{"kind": "storage", "message": "a disk"}'
    found.on_trial_complete("b", {"failure": failure})
    assert observer.problems[1:] == ["a disk"] and found.error is None and not scheduler.running
