"""Reports of a worker group."""

import time
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def test_all_reports_of_a_group_arrive_before_its_job_goes_on(cluster: None) -> None:
    from semigrid.grid.run.reports import GroupReports

    got: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any]) -> None:  # as slow as a busy driver makes it
        time.sleep(0.02)
        got.append(metrics)

    reports = GroupReports()
    # the group's end, also by an error, comes while its reports still wait
    with pytest.raises(RuntimeError, match="died"), reports.passed_to(report):
        for step in range(20):
            reports.after_report(None, [{"step": step}, {"step": -1}], None)
        raise RuntimeError("the group died")
    assert got == [{"step": step} for step in range(20)]


def test_reports_that_are_lost_end_no_training(cluster: None) -> None:
    import ray

    from semigrid.grid.run.reports import GroupReports

    got: list[dict[str, Any]] = []
    reports = GroupReports()
    with reports.passed_to(got.append):
        reports.after_report(None, [{"step": 1}], None)
        deadline = time.monotonic() + 30
        while not got and time.monotonic() < deadline:
            time.sleep(0.01)
        ray.kill(reports._queue.actor)  # as the operating system does when memory runs out
        reports.after_report(None, [{"step": 2}], None)
    assert got == [{"step": 1}]
