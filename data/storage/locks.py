"""Locks on files, which the kernel frees when their process ends, however it ends."""

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

# errors of file systems without file locks
NO_FLOCK = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class LockedError(TimeoutError):
    """Another process held a lock for as long as one was willing to wait."""


@contextlib.contextmanager
def locked(path: Path, seconds: float = math.inf) -> Iterator[bool]:
    """Locks a file, which is made if it is missing, against other processes during the block.

    Whoever holds the lock may delete the file. Yields False on file systems without locks.

    Raises ``LockedError`` when another process holds the lock for so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        file = _open(path)
        try:
            is_locked = _lock(file, path, deadline, seconds)
            # else its holder deleted it meanwhile: a lock on no file of this name
            if not is_locked or _is_at(file, path):
                yield is_locked
                return
        finally:
            os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError as error:
        # another user's file: reading suffices, except on some network shares
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        raise error


def _lock(file: int, path: Path, deadline: float, seconds: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockedError(f"a process has held {path} for {seconds:g} s") from None
        except OSError as error:
            if error.errno in NO_FLOCK:
                return False
            raise
        time.sleep(0.02)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False
