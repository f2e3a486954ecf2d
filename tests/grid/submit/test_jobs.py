"""Following a job over a connection that fails."""

import time

import pytest

from semigrid.grid.submit import jobs
from semigrid.grid.submit.jobs import ClusterAwayError, JobClient


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> tuple[JobClient, list[str]]:
    """A client of a cluster that is given up after a second, and what it says."""
    said: list[str] = []
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda address: _Lists())
    monkeypatch.setattr(jobs, "AWAY_SECONDS", 1.0)
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.1)
    return JobClient("http://head:8265", said.append), said


class _Lists:
    def list_jobs(self) -> list[str]:
        return []


def test_a_request_that_hangs_for_minutes_before_it_fails_is_made_again(
    client: tuple[JobClient, list[str]],
) -> None:
    asked = 0

    def ask() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            time.sleep(1.2)
            raise ConnectionError("timed out")
        return "answer"

    assert client[0]._reach(ask) == "answer"
    assert len(client[1]) == 1 and "cannot be reached" in client[1][0]


def test_a_cluster_that_stays_away_is_given_up(client: tuple[JobClient, list[str]]) -> None:
    def ask() -> str:
        raise ConnectionError("refused")

    with pytest.raises(ClusterAwayError, match="for 1 seconds"):
        client[0]._reach(ask)
    assert len(client[1]) == 1
