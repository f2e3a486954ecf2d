"""Ray's job API: submits one job for a results folder and follows it."""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import aiohttp
from ray.job_submission import JobDetails, JobStatus
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_fixed

from semigrid.data.errors import InputError
from semigrid.data.redact import shown
from semigrid.data.storage.address import WEB, is_local
from semigrid.grid.cluster.ray_private import TimedJobClient
from semigrid.grid.run.surroundings import check_token
from semigrid.grid.submit.job_package import FOLDER_KEY, JobPackage

ACTIVE = (JobStatus.PENDING, JobStatus.RUNNING)
# Loggers of Ray that report every file that is uploaded.
CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# Pause between two looks at a job that logs nothing, in seconds.
LOOK_SECONDS = 1.0
# Longest wait for a line of the log before the cluster is asked whether the job is still there.
QUIET_SECONDS = 60.0
# Longest trust in a connection that passes no line on, in seconds.
SILENT_SECONDS = 1800.0
# Longest wait for a cluster that answered before, in seconds: a laptop wakes up, a head restarts.
AWAY_SECONDS = 300.0
# Exit codes of a shell whose command was ended by SIGKILL or SIGTERM, which nobody here sends.
KILLED = (128 + 9, 128 + 15)
# Ray's error types for a job whose machine, or head, is gone.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")

T = TypeVar("T")


class ClusterAwayError(OSError):
    """A cluster that answered before has not answered for a long time."""


def was_lost(end: JobDetails | None) -> bool:
    """Whether a job was killed or its machine lost, so that a second attempt may succeed.

    Args:
        end: how the job ended; None where the cluster has no such job, since its head is a new one.
    """
    if end is None or end.status != JobStatus.FAILED:
        return end is None
    code = end.driver_exit_code
    return end.error_type in LOST if code is None else code < 0 or code in KILLED


class JobClient:
    """Submits jobs to a cluster and follows them.

    Args:
        address: the cluster's dashboard, ``http://head:8265``.
        say: receives a message when the cluster cannot be reached for a while, or others can read
            its token.

    Raises ``InputError`` where no cluster answers, or it refuses us.
    """

    def __init__(self, address: str, say: Callable[[str], None]):
        self.address, self._say = shown(address), say
        for name in CHATTER:
            logging.getLogger(name).setLevel(logging.ERROR)
        check_token(say)
        try:
            # Ray would import a module of another scheme's name
            if not is_local(address) and urlsplit(address).scheme not in WEB:
                raise ValueError("not a web address")
            self._client = TimedJobClient(address)
            self._client.list_jobs()
        except (OSError, RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"--address {self.address}: no Ray cluster that takes jobs from here ({first}); "
                "give its dashboard's address, http://HOST:8265, and if it wants a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN)"
            ) from error

    def _jobs(self, folder: str) -> tuple[str | None, int]:
        """Identity of the job that writes to a results folder now, and how many there have been."""
        jobs = [
            job
            for job in self._client.list_jobs()
            if job.submission_id and (job.metadata or {}).get(FOLDER_KEY) == folder
        ]
        return next((j.submission_id for j in jobs if j.status in ACTIVE), None), len(jobs)

    def submit(self, package: JobPackage) -> tuple[str, bool]:
        """Submits unless the results folder has an active job; its identity, and if it is new."""
        return self._reach(lambda: self._submit(package))

    def _submit(self, package: JobPackage) -> tuple[str, bool]:
        job, count = self._jobs(package.folder)
        if job is not None:
            return job, False
        job_id = package.job_id(count + 1)
        with tempfile.TemporaryDirectory(prefix="semigrid-submit-") as temporary:
            try:
                self._client.submit_job(
                    entrypoint=package.entrypoint,
                    submission_id=job_id,
                    runtime_env=package.runtime_env(Path(temporary)),
                    metadata=package.metadata,
                )
            except RuntimeError as error:
                job, _ = self._jobs(package.folder)
                if job is not None:  # somebody was quicker
                    return job, False
                if _NOT_YET in str(error):
                    raise
                raise InputError(
                    f"--address {self.address}: the job is refused: {error}"
                ) from error
        return job_id, True

    def follow(self, job: str, write: Callable[[str], None]) -> JobDetails | None:
        """Passes the job's log on, from its beginning, until the job ends; returns how it did.

        Returns None where the cluster has no such job, since its head is a new one. Raises
        ``ClusterAwayError`` when the cluster cannot be reached for long. The job may well continue
        then.
        """
        seen = 0
        while (details := self._reach(lambda: self._details(job))) is not None:
            if details.status not in ACTIVE:
                write(self._reach(lambda: self._client.get_job_logs(job))[seen:])
                break
            seen = asyncio.run(self._tail(job, seen, write))
            time.sleep(LOOK_SECONDS)
        return details

    async def _tail(self, job: str, seen: int, write: Callable[[str], None]) -> int:
        """Passes the log on while the connection lasts; returns the characters passed on so far."""
        position, log = 0, self._client.tail_job_logs(job)
        try:
            while (text := await self._next(log, job)) is not None:
                if position + len(text) > seen:
                    write(text[max(0, seen - position) :])
                    seen = position + len(text)
                position += len(text)
        except (StopAsyncIteration, RuntimeError, OSError, aiohttp.ClientError):
            pass  # it ended or broke, and starts again from its beginning
        return seen

    async def _next(self, log: AsyncIterator[str], job: str) -> str | None:
        """The log's next part; None where it is to be begun again.

        A head that stands still, and a connection that died without a word, look like a job that
        logs nothing. Another connection gets the whole log again, so the head is asked first.
        """
        part, began = asyncio.ensure_future(anext(log)), time.time()
        try:
            while not (await asyncio.wait([part], timeout=QUIET_SECONDS))[0]:
                details = await asyncio.to_thread(self._details, job)
                is_active = details is not None and details.status in ACTIVE
                # by a clock that goes on while this machine sleeps
                if not is_active or time.time() - began > SILENT_SECONDS:
                    return None
            return part.result()
        finally:
            part.cancel()

    def _details(self, job: str) -> JobDetails | None:
        try:
            return self._client.get_job_info(job)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            return None

    def _reach(self, ask: Callable[[], T]) -> T:
        """Asks until the cluster answers."""
        return Retrying(
            retry=retry_if_exception(_is_away),
            wait=wait_fixed(2 * LOOK_SECONDS),
            stop=self._was_away,
            before_sleep=self._say_once,
            retry_error_callback=self._give_up,
        )(ask)

    def _was_away(self, state: RetryCallState) -> bool:
        """Whether it is too long since the first failure; a request itself may take minutes."""
        assert state.outcome_timestamp is not None
        if state.attempt_number == 1:
            self._away_since = state.outcome_timestamp
        return state.outcome_timestamp - self._away_since >= AWAY_SECONDS

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            self._say(
                f"{self.address} cannot be reached; trying for {AWAY_SECONDS:g} seconds (the job "
                "does not need this terminal)"
            )

    def _give_up(self, state: RetryCallState) -> NoReturn:
        assert state.outcome is not None
        raise ClusterAwayError(
            f"{self.address} could not be reached for {AWAY_SECONDS:g} seconds"
        ) from state.outcome.exception()


# a head that has just started says so until an agent is there that takes the job
_NOT_YET = "No available agent"


def _is_away(error: BaseException) -> bool:
    """Errors of requests are OSErrors; a proxy, or a head that starts, answers 5xx."""
    answers_5xx = isinstance(error, RuntimeError) and "status code 5" in str(error)
    return answers_5xx or isinstance(error, OSError)
