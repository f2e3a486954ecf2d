"""What a run tells those who watch it."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from semigrid.data.storage import Storage
from semigrid.grid.study.ledger import Record
from semigrid.grid.study.state import Job, StudyState


class RunObserver(AbstractContextManager[object], Protocol):
    """Follows a run; entered as a context manager when it starts, and left when it ends.

    Attributes:
        activity: what the run is doing while no job is under way.
    """

    activity: str

    def attach(self, study: StudyState, storage: Storage) -> None:
        """Names the run to follow, before it starts."""

    def started(self, job: Job) -> None:
        """A job was handed to a worker process."""

    def progress(self, job: Job, facts: dict[str, Any]) -> None:
        """A running job reported where it stands, or an evaluation."""

    def waits(self, job: Job) -> None:
        """A started job has no room for now."""

    def died(self, job: Job) -> None:
        """A job's process died; the job starts again."""

    def completed(
        self, study: StudyState, job: Job, record: Record | None, problem: str | None
    ) -> None:
        """A job ended, however it did; ``study`` is the state after it."""

    def asked(self, machines: str) -> None:
        """The cluster's autoscaler is asked for these machines; for none if it is empty."""

    def noted(self, words: str) -> None:
        """Something happened that the user should know, and that ends nothing."""
