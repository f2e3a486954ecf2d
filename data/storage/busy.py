"""Web servers that ask to come back later: they are waited for, and then left alone for a while."""

import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import count
from typing import Any, TypeVar

from semigrid.data.errors import ServerBusyError

T = TypeVar("T")

BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class BusyAnswerError(OSError):
    """One answer of a busy server: its HTTP status, what it said, and how long it asks to wait."""

    def __init__(self, status: int, said: str, seconds: float):
        super().__init__(said)
        self.status, self.said, self.seconds = status, said, seconds


# hosts that were said to be busy, since when they have been nothing else, and until when, and why,
# they are left alone
_told: set[str] = set()
_busy_since: dict[str, float] = {}
_left_alone: dict[str, tuple[float, BusyAnswerError]] = {}


def while_busy(host: str, patience: float, work: Callable[[], T]) -> T:
    """Does the work, again and again while it raises ``BusyAnswerError``.

    After ``patience`` seconds in which the host was nothing but busy, or if it asks for more, the
    host is left alone for as long again. Raises ``ServerBusyError``.
    """
    for attempt in count():
        until, why = _left_alone.get(host, (0.0, None))
        if why is not None and time.monotonic() < until:
            raise _error(host, patience, why)
        try:
            done = work()
        except BusyAnswerError as busy:
            since = _busy_since.setdefault(host, time.monotonic())
            # random, so that not all processes ask again at once
            pause = max(busy.seconds, random.uniform(0.5, 1) * min(5, 0.2 * 2**attempt))
            if time.monotonic() + pause > since + patience:
                _busy_since.pop(host, None)
                _left_alone[host] = time.monotonic() + patience, busy
                raise _error(host, patience, busy) from busy
            if host not in _told:
                _told.add(host)
                logging.getLogger(__name__).warning(
                    f"{host} is busy ({busy.said}); waiting for it, up to {patience:g} seconds"
                )
            time.sleep(pause)
        else:
            _busy_since.pop(host, None)
            return done
    raise AssertionError("unreachable")


def _error(host: str, patience: float, busy: BusyAnswerError) -> ServerBusyError:
    wish = f" and asks to wait {busy.seconds:,.0f} seconds" if busy.seconds else ""
    error = ServerBusyError(
        f"{host} is busy: it answers {busy.said}{wish}, and is waited for {patience:g} seconds at "
        "most; run the same command again later"
    )
    error.status = busy.status
    return error


def seconds_to_wait(headers: Any) -> float:
    """What an answer's header Retry-After says, as seconds or as a date; 0 without one."""
    told = (headers or {}).get("Retry-After", "").strip()
    try:
        if told.isdecimal():
            return float(told)
        wait = parsedate_to_datetime(told) - datetime.now(UTC)
    except (ValueError, TypeError, OverflowError):  # absent, or anything else
        return 0
    return max(0, wait.total_seconds())
