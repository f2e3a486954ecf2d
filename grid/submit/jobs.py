"""Ray's job API: one job for an experiment's folder, followed from here."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_fixed

from semigrid.data.errors import InputError
from semigrid.grid.submit.parcel import FOLDER_KEY, Parcel, runtime_env

WAITING = (JobStatus.PENDING, JobStatus.RUNNING)
# they would tell of every package that goes along
CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# so often is a job looked at whose log says nothing
LOOK_SECONDS = 1.0
# so long is a cluster waited for that answered before: a laptop wakes up, a head is replaced
AWAY_SECONDS = 300.0
# how a shell tells of signals that are no wish of anybody's: SIGKILL, SIGTERM
KILLED = (128 + 9, 128 + 15)
# these say nothing of the job's command: its machine, or the head, is gone
LOST = ("JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE")

T = TypeVar("T")


class ClusterAwayError(OSError):
    """A cluster that answered before has not for a long time."""


@dataclass(frozen=True)
class Ending:
    """How a job ended. ``code`` is its command's; None if that is not known."""

    status: str  # Ray's, or "UNKNOWN" where the cluster knows of no such job: its head is a new one
    code: int | None = None
    error: str | None = None  # Ray's kind of error
    words: str = ""

    @property
    def lost(self) -> bool:
        """Whether it was killed, or its machine lost, so that the same again may well succeed."""
        if self.status == "FAILED" and self.code is not None:
            return self.code < 0 or self.code in KILLED
        return self.status == "UNKNOWN" or (self.status == "FAILED" and self.error in LOST)


class Jobs:
    """The jobs of a cluster.

    Args:
        address: of the cluster's dashboard, ``http://head:8265``.
        say: is told when it cannot be reached for a while.

    Raises ``InputError`` where no cluster answers, or not to us.
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

    def of_folder(self, folder: str) -> list[Any]:
        """All jobs that write or wrote to a results folder, as Ray knows them."""
        return [
            job
            for job in self._client.list_jobs()
            if job.submission_id and (job.metadata or {}).get(FOLDER_KEY) == folder
        ]

    def at_work(self, folder: str) -> str | None:
        """The job that has to do with the folder now."""
        return next((j.submission_id for j in self.of_folder(folder) if j.status in WAITING), None)

    def submit(self, parcel: Parcel, install: bool) -> tuple[str, bool]:
        """Submits unless the experiment has a job already; its id, and whether it is new."""
        return self._reach(lambda: self._submit(parcel, install))

    def _submit(self, parcel: Parcel, install: bool) -> tuple[str, bool]:
        job = self.at_work(parcel.folder)
        if job is not None:
            return job, False
        number = len(self.of_folder(parcel.folder)) + 1
        with tempfile.TemporaryDirectory(prefix="semigrid-submit-") as temporary:
            environment = runtime_env(parcel, Path(temporary), install)
            try:
                found = self._client.submit_job(
                    entrypoint=parcel.entrypoint,
                    submission_id=parcel.job_id(number),
                    runtime_env=environment,
                    metadata=parcel.metadata,
                )
            except RuntimeError as error:
                job = self.at_work(parcel.folder)
                if job is not None:  # somebody was quicker
                    return job, False
                raise InputError(
                    f"--address {self.address}: the job is refused: {error}"
                ) from error
        return str(found), True

    def follow(self, job: str, write: Callable[[str], None]) -> Ending:
        """Hands on the job's log, from its beginning, until the job ends.

        Raises ``ClusterAwayError``, which says nothing of the job, when the cluster cannot be
        reached for long.
        """
        seen = 0
        while (ending := self._reach(lambda: self._ending(job))) is None:
            seen = asyncio.run(self._tail(job, seen, write))
            time.sleep(LOOK_SECONDS)
        if ending.status != "UNKNOWN":
            log = self._reach(lambda: self._client.get_job_logs(job))
            write(log[seen:])
        return ending

    async def _tail(self, job: str, seen: int, write: Callable[[str], None]) -> int:
        """As far as the connection lasts; returns how much of the log has been handed on."""
        position = 0
        try:
            async for text in self._client.tail_job_logs(job):
                if position + len(text) > seen:
                    write(text[max(0, seen - position) :])
                    seen = position + len(text)
                position += len(text)
        except (RuntimeError, OSError, aiohttp.ClientError):  # it broke: the log starts again
            pass
        return seen

    def _ending(self, job: str) -> Ending | None:
        """None while the job is at work."""
        try:
            info = self._client.get_job_info(job)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            return Ending("UNKNOWN")
        if info.status in WAITING:
            return None
        words = str(info.message or "").strip()
        return Ending(str(info.status), info.driver_exit_code, info.error_type, words)

    def _reach(self, ask: Callable[[], T]) -> T:
        """Asks until the cluster answers."""

        def is_away(error: BaseException) -> bool:
            # requests' errors are OSErrors; a proxy or a head that starts says 5xx
            return isinstance(error, OSError) or "status code 5" in str(error)

        def say_once(state: RetryCallState) -> None:
            if state.attempt_number == 1:
                self._say(
                    f"{self.address} cannot be reached; trying for {self._away_seconds:g} seconds "
                    "(the job does not need this terminal)"
                )

        def give_up(state: RetryCallState) -> Any:
            raise ClusterAwayError(
                f"{self.address} could not be reached for {self._away_seconds:g} seconds"
            )

        return Retrying(
            retry=retry_if_exception(is_away),
            wait=wait_fixed(2 * LOOK_SECONDS),
            stop=stop_after_delay(self._away_seconds),
            before_sleep=say_once,
            retry_error_callback=give_up,
        )(ask)
