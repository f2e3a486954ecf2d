"""Following a job over a connection that fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus
from tests.helpers.web import web_server

from semigrid.data.errors import InputError
from semigrid.grid.cluster import ray_private
from semigrid.grid.submit import jobs
from semigrid.grid.submit.job_package import JobPackage
from semigrid.grid.submit.jobs import ClusterAwayError, JobClient


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> tuple[JobClient, list[str]]:
    """A client of a cluster that is given up after a second, and what it says."""
    said: list[str] = []
    monkeypatch.setattr(jobs, "TimedJobClient", lambda address: _Lists())
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


def test_a_head_without_an_agent_yet_is_asked_again(
    client: tuple[JobClient, list[str]],
) -> None:
    package = JobPackage("quickstart", "/results/quickstart", "name: quickstart", "semigrid run x")
    answers = ["status code 500: No available agent to submit job, please try again later.", None]
    sent: list[str] = []

    def submit_job(submission_id: str, **job: Any) -> None:
        sent.append(submission_id)
        if (refusal := answers.pop(0)) is not None:
            raise RuntimeError(f"Request failed with {refusal}")

    client[0]._client.submit_job = submit_job
    assert client[0].submit(package) == (package.job_id(1), True)
    assert sent == [package.job_id(1)] * 2 and len(client[1]) == 1
    answers = ["status code 500: Traceback"]
    with pytest.raises(InputError, match="the job is refused: .*Traceback"):
        client[0].submit(package)


def test_a_silent_host_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "JOB_API_SECONDS", (0.3, 0.3))
    with web_server() as server:
        server.answers["/api/version"] = lambda handler: time.sleep(2)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"--address http://127\S+: no .*[Tt]imed out"):
            JobClient(f"http://user:SECRET@{server.host}", print)
        assert time.monotonic() - started < 1.5 and server.asked


@pytest.mark.parametrize("address", ["antigravity://host", "ray://head:10001", "file:///etc"])
def test_no_module_is_imported_for_an_address(address: str) -> None:
    with pytest.raises(InputError, match=rf"--address {address}: .*not a web address"):
        JobClient(address, print)


@pytest.mark.parametrize(
    "address", ["https://TOKEN@127.0.0.1:9", "http://127.0.0.1:9/?token=TOKEN"]
)
def test_a_token_in_an_address_is_not_shown(address: str) -> None:
    with pytest.raises(InputError, match="no Ray cluster") as refused:
        JobClient(address, print)
    assert "TOKEN@" not in str(refused.value) and "=TOKEN" not in str(refused.value)


RUNNING = JobDetails(type=JobType.SUBMISSION, entrypoint="", status=JobStatus.RUNNING)


def followed(
    client: JobClient, answers: list[JobDetails | None | Exception], quiet: float = 60
) -> tuple[str, int, int]:
    """What is passed on of a log that is quiet for a while, how much was seen, and answers left."""

    async def tail(job: str) -> AsyncIterator[str]:
        yield "one "
        yield "two"
        await asyncio.sleep(quiet)
        yield " three"

    def details(job: str) -> JobDetails | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client._client.tail_job_logs, client._client.get_job_info = tail, details
    written: list[str] = []
    seen = asyncio.run(client._tail("job", 2, written.append))
    return "".join(written), seen, len(answers)


def test_a_log_that_stands_still_keeps_its_connection_while_the_head_says_the_job_runs(
    client: tuple[JobClient, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "QUIET_SECONDS", 0.1)
    written, seen, left = followed(client[0], [RUNNING] * 100, quiet=0.35)
    assert written == "e two three" and seen == 13 and 90 < left < 100


@pytest.mark.parametrize(
    "last",
    [
        ConnectionError("refused"),
        RuntimeError("status code 503"),
        RuntimeError("status code 404"),  # a new head, which has no such job
        RUNNING.model_copy(update={"status": JobStatus.FAILED}),
    ],
)
def test_a_log_that_stands_still_is_left_when_the_head_says_nothing_of_a_running_job(
    client: tuple[JobClient, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    last: JobDetails | Exception,
) -> None:
    monkeypatch.setattr(jobs, "QUIET_SECONDS", 0.1)
    assert followed(client[0], [RUNNING, last]) == ("e two", 7, 0)


def test_a_connection_that_is_silent_for_very_long_may_be_dead(
    client: tuple[JobClient, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(jobs, "SILENT_SECONDS", 0.25)
    written, seen, left = followed(client[0], [RUNNING] * 100)
    assert written == "e two" and seen == 7 and 90 < left < 99


def test_the_token_of_a_cluster_is_looked_at_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH=.*there is no such file"):
        JobClient("http://127.0.0.1:1", print)
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o644)
    said: list[str] = []
    with pytest.raises(InputError, match="--address http://127.0.0.1:1: no Ray cluster"):
        JobClient("http://127.0.0.1:1", said.append)
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o644
    assert len(said) == 1 and "other users can read or replace this token" in said[0]
