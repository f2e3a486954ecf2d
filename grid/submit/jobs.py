"""Ray's job API: submits one job for a results folder and follows it."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from semigrid.data.errors import InputError
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
# Longest wait for a cluster that answered before, in seconds: a laptop wakes up, a head restarts.
AWAY_SECONDS = 300.0
# Exit codes of a shell whose command was ended by SIGKILL or SIGTERM, which nobody here sends.
KILLED = (128 + 9, 128 + 15)
# Ray's error types for a job whose machine, or head, is gone.
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")

T = TypeVar("T")


class ClusterAwayError(OSError):
    """A cluster that answered before has not answered for a long time."""


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    ``status`` is Ray's, or ``UNKNOWN`` where the cluster has no such job, since its head is a new
    one. ``code`` is the exit code of the job's command, None if unknown. ``error`` is Ray's error
    type, ``message`` its message.
    """

    status: str
    code: int | None = None
    error: str | None = None
    message: str = ""

    @property
    def lost(self) -> bool:
        """Whether the job was killed or its machine lost, so that a second attempt may succeed."""
        if self.status == "FAILED" and self.code is not None:
            return self.code < 0 or self.code in KILLED
        return self.status == "UNKNOWN" or (self.status == "FAILED" and self.error in LOST)


class JobClient:
    """Submits jobs to a cluster and follows them.

    Args:
        address: the cluster's dashboard, ``http://head:8265``.
        say: receives a message when the cluster cannot be reached for a while.

    Raises ``InputError`` where no cluster answers, or it refuses us.
    """

    def __init__(
        self, address: str, say: Callable[[str], None], away_seconds: float = AWAY_SECONDS
    ):
        self.address, self._say, self._away_seconds = address, say, away_seconds
        for name in CHATTER:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(address)
            self._client.list_jobs()
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"--address {address}: no Ray cluster that takes jobs from here ({first}); give "
                "its dashboard's address, http://HOST:8265, and if it wants a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN)"
            ) from error

    def of_folder(self, folder: str) -> list[JobDetails]:
        """All jobs that write or wrote to a results folder."""
        return [
            job
            for job in self._client.list_jobs()
            if job.submission_id and (job.metadata or {}).get(FOLDER_KEY) == folder
        ]

    def active(self, folder: str) -> str | None:
        """Identity of the job that writes to a results folder now."""
        return next((j.submission_id for j in self.of_folder(folder) if j.status in ACTIVE), None)

    def submit(self, package: JobPackage, install: bool) -> tuple[str, bool]:
        """Submits unless the results folder has an active job; its identity, and if it is new."""
        return self._reach(lambda: self._submit(package, install))

    def _submit(self, package: JobPackage, install: bool) -> tuple[str, bool]:
        job = self.active(package.folder)
        if job is not None:
            return job, False
        job_id = package.job_id(len(self.of_folder(package.folder)) + 1)
        with tempfile.TemporaryDirectory(prefix="semigrid-submit-") as temporary:
            environment = package.runtime_env(Path(temporary), install)
            try:
                self._client.submit_job(
                    entrypoint=package.entrypoint,
                    submission_id=job_id,
                    runtime_env=environment,
                    metadata=package.metadata,
                )
            except RuntimeError as error:
                job = self.active(package.folder)
                if job is not None:  # somebody was quicker
                    return job, False
                raise InputError(
                    f"--address {self.address}: the job is refused: {error}"
                ) from error
        return job_id, True

    def follow(self, job: str, write: Callable[[str], None]) -> JobEnd:
        """Passes the job's log on, from its beginning, until the job ends.

        Raises ``ClusterAwayError`` when the cluster cannot be reached for long. The job may well
        continue then.
        """
        seen = 0
        while (end := self._reach(lambda: self._end(job))) is None:
            seen = asyncio.run(self._tail(job, seen, write))
            time.sleep(LOOK_SECONDS)
        if end.status != "UNKNOWN":
            log = self._reach(lambda: self._client.get_job_logs(job))
            write(log[seen:])
        return end

    async def _tail(self, job: str, seen: int, write: Callable[[str], None]) -> int:
        """Passes the log on while the connection lasts; returns the characters passed on so far."""
        position = 0
        try:
            async for text in self._client.tail_job_logs(job):
                if position + len(text) > seen:
                    write(text[max(0, seen - position) :])
                    seen = position + len(text)
                position += len(text)
        except (RuntimeError, OSError, aiohttp.ClientError):  # it broke; the log starts again
            pass
        return seen

    def _end(self, job: str) -> JobEnd | None:
        """How the job ended; None while it is active."""
        try:
            info = self._client.get_job_info(job)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            return JobEnd("UNKNOWN")
        if info.status in ACTIVE:
            return None
        message = str(info.message or "").strip()
        return JobEnd(str(info.status), info.driver_exit_code, info.error_type, message)

    def _reach(self, ask: Callable[[], T]) -> T:
        """Asks until the cluster answers."""
        give_up_at: float | None = None
        while True:
            try:
                return ask()
            except (OSError, RuntimeError) as error:
                # errors of requests are OSErrors; a proxy, or a head that starts, answers 5xx
                if isinstance(error, RuntimeError) and "status code 5" not in str(error):
                    raise
                seconds = f"{self._away_seconds:g} seconds"
                if give_up_at is None:
                    give_up_at = time.monotonic() + self._away_seconds
                    self._say(
                        f"{self.address} cannot be reached; trying for {seconds} (the job does "
                        "not need this terminal)"
                    )
                elif time.monotonic() > give_up_at:
                    raise ClusterAwayError(
                        f"{self.address} could not be reached for {seconds}"
                    ) from error
            time.sleep(2 * LOOK_SECONDS)
