"""Storage that waits while it is away."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from semigrid.data.errors import InputError, StorageAwayError, StorageGoneError
from semigrid.data.storage.protocol import Storage
from semigrid.data.storage.wrapper import StorageWrapper

T = TypeVar("T")

PATIENCE = "SEMIGRID_STORAGE_PATIENCE"


def storage_patience() -> float:
    """Seconds that a run waits for storage that vanished: ``PATIENCE``, or two minutes."""
    text = os.environ.get(PATIENCE) or "120"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{PATIENCE}={text}: not a number of seconds, 0 or more")
    return seconds


class PatientStorage(StorageWrapper):
    """A storage that waits up to ``patience`` seconds whenever it is away.

    Then it raises ``StorageGoneError``. ``where`` names the storage in messages.
    """

    def __init__(self, storage: Storage, patience: float, where: str | None = None):
        super().__init__(storage)
        self.patience = patience
        self.where = where or storage.uri

    def folder(self, *names: str) -> Storage:
        return PatientStorage(self.storage.folder(*names), self.patience, self.where)

    def _do(self, work: Callable[[], T]) -> T:
        return Retrying(
            retry=retry_if_exception_type(StorageAwayError),
            # random, so that not all processes ask a server at once when it comes back
            wait=wait_random_exponential(multiplier=0.1, max=min(5, self.patience / 4)),
            stop=stop_after_delay(self.patience),
            before_sleep=self._say_once,
            retry_error_callback=self._give_up,
        )(work)

    def _say_once(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            logging.getLogger(__name__).warning(
                "%s is away (%s); waiting for it, up to %g seconds",
                self.where,
                _error(state),
                self.patience,
            )

    def _give_up(self, state: RetryCallState) -> Any:
        raise StorageGoneError(
            f"{self.where}: this storage has been away for {self.patience:g} seconds "
            f"({_error(state)}); bring it back, then run the same command again ({PATIENCE} sets "
            "how long to wait)"
        ) from _error(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
