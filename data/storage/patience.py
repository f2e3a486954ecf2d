"""Waiting for storage that is away for a while: a network, an unmounted or moved folder."""

import contextlib
import logging
import os
from collections.abc import Callable
from errno import (
    EAGAIN,
    EBUSY,
    EHOSTDOWN,
    EHOSTUNREACH,
    EIO,
    ENETDOWN,
    ENETRESET,
    ENETUNREACH,
    ENODEV,
    ENOTCONN,
    ENXIO,
    ESHUTDOWN,
    ESTALE,
    ETIMEDOUT,
)
from typing import Any, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    stop_after_delay,
    wait_exponential,
    wait_random_exponential,
)

from semigrid.data.errors import InputError
from semigrid.data.storage.buckets import is_away as bucket_is_away

T = TypeVar("T")

PATIENCE = "SEMIGRID_STORAGE_PATIENCE"
# what a mount, a server or a network says while it is away; a full disk is not among it
AWAY = {EAGAIN, EBUSY, EHOSTDOWN, EHOSTUNREACH, EIO, ENETDOWN, ENETRESET, ENETUNREACH}
AWAY |= {ENODEV, ENOTCONN, ENXIO, ESHUTDOWN, ESTALE, ETIMEDOUT}
NOT_THERE = (FileNotFoundError, NotADirectoryError)


class StorageGoneError(OSError):
    """Storage that was there could not be reached for as long as it was waited for."""


def storage_patience() -> float:
    """Seconds that a run waits for storage that vanished: two minutes, or what is set."""
    text = os.environ.get(PATIENCE) or "120"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{PATIENCE}={text}: not a number of seconds, 0 or more")
    return seconds


def patiently(
    work: Callable[[], T], where: str, seconds: float, vanished: Callable[[], bool] | None = None
) -> T:
    """Does the work, again and again for so many seconds while the storage ``where`` is away.

    ``vanished`` tells a file that is missing from storage that is; of a bucket its answer does.
    Raises what the work raises when that is nothing to wait for, and ``StorageGoneError`` when the
    time is over.
    """

    def look_twice() -> T:
        # the storage may have come back between the error and the look for it
        with contextlib.suppress(*NOT_THERE):
            return work()
        return work()

    def is_away(state: RetryCallState) -> bool:
        error = _error(state)
        if isinstance(error, NOT_THERE):
            return vanished is not None and vanished()
        return _passes(error)

    def say_once(state: RetryCallState) -> None:
        if state.attempt_number == 1:
            logging.getLogger(__name__).warning(
                "%s is away (%s); waiting for it, up to %g seconds", where, _error(state), seconds
            )

    def give_up(state: RetryCallState) -> Any:
        raise StorageGoneError(
            f"{where}: this storage has been away for {seconds:g} seconds ({_error(state)}); bring "
            f"it back, then run the same command again ({PATIENCE} sets how long it is waited for)"
        ) from _error(state)

    # at random: a server that comes back is not met by all at once
    pauses = wait_random_exponential if vanished is None else wait_exponential
    retrying = Retrying(
        retry=is_away,
        wait=pauses(multiplier=0.1, max=min(5, seconds / 4)),
        stop=stop_after_delay(seconds),
        before_sleep=say_once,
        retry_error_callback=give_up,
    )
    return retrying(work if vanished is None else look_twice)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _passes(error: BaseException | None) -> bool:
    """Whether such an error goes away by itself."""
    of_a_bucket = bucket_is_away(error)
    if of_a_bucket is not None:
        return of_a_bucket
    return isinstance(error, OSError) and error.errno in AWAY
