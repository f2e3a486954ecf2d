"""Processes that a process has started, found in ``/proc``, and their end."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

PROCESSES = Path("/proc")
# Longest time that processes may take to end, in seconds.
END_SECONDS = 5.0
PAUSE_SECONDS = 0.05


def started_by(pids: Collection[int], mark: str = "") -> set[int]:
    """Living processes that descend from these, without them.

    Args:
        mark: ``NAME=value`` of an environment variable. A process that has it counts too, with its
            descendants: its parent may have died, and then it is the child of another process.
    """
    parents: dict[int, int] = {}
    known = set(pids)
    for folder in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            # the name before these fields may hold anything
            state, parent = (folder / "stat").read_text("latin-1").rpartition(")")[2].split()[:2]
            if state in "ZX":
                continue
            parents[int(folder.name)] = int(parent)
            if mark and f"{mark}\0".encode() in (folder / "environ").read_bytes():
                known.add(int(folder.name))
    while new := {pid for pid, parent in parents.items() if parent in known} - known:
        known |= new
    return known - set(pids)


def kill_all(find: Callable[[], set[int]]) -> None:
    """Kills the processes that are found until there are none: they may start others meanwhile."""
    until = time.monotonic() + END_SECONDS
    while (found := find()) and time.monotonic() < until:
        send(found, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)


def send(pids: Collection[int], number: int) -> None:
    """Sends a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
