"""Ray's job API: one job for an experiment's folder, followed from here."""

import asyncio
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from data.errors import InputError
from grid.submit.parcel import FOLDER_KEY, Parcel, runtime_env

WAITING = (JobStatus.PENDING, JobStatus.RUNNING)
# they would tell of every package that goes along
CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# so often is a job looked at whose log says nothing
LOOK_SECONDS = 1.0


class Jobs:
    """The jobs of a cluster.

    Args:
        address: of the cluster's dashboard, ``http://head:8265``.

    Raises ``InputError`` where no cluster answers, or not to us.
    """

    def __init__(self, address: str):
        self.address = address
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

    def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Hands on the job's log, from its beginning, until the job ends."""
        seen = 0
        while not self.status(job).is_terminal():
            seen = asyncio.run(self._tail(job, seen, write))
            time.sleep(LOOK_SECONDS)
        log = self._client.get_job_logs(job)
        write(log[seen:])

    async def _tail(self, job: str, seen: int, write: Callable[[str], None]) -> int:
        """As far as the connection lasts; returns how much of the log has been handed on."""
        position = 0
        try:
            async for text in self._client.tail_job_logs(job):
                if position + len(text) > seen:
                    write(text[max(0, seen - position) :])
                    seen = position + len(text)
                position += len(text)
        except RuntimeError:  # the connection broke: the log starts again
            pass
        return seen

    def status(self, job: str) -> Any:
        return self._client.get_job_status(job)

    def exit_code(self, job: str) -> int | None:
        """Of the job's command; None if it was killed, or never began."""
        code = self._client.get_job_info(job).driver_exit_code
        return None if code is None else int(code)
