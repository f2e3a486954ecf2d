"""One process at a time in a folder, as long as it lives: the kernel frees the lock of a dead one.

Buckets have no such locks, and some network shares have none either: nothing is locked there.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage.local import NO_FLOCK, is_unfinished
from semigrid.data.storage.storage import Storage

# The file that is locked: there while a process works in the folder, and after it was killed.
LOCK = ".in-use"


@contextlib.contextmanager
def in_use(storage: Storage, setting: str) -> Iterator[bool]:
    """Keeps other processes out of a folder, which is made if it is missing, during the block.

    Yields whether others are really kept out. If so, files that a killed process left half written
    are removed first.

    Args:
        setting: what names the folder in messages, such as ``--output``.

    Raises ``InputError`` at once where another process works in it.
    """
    folder = storage.local_path()
    if folder is None:
        yield False
        return
    folder.mkdir(parents=True, exist_ok=True)
    locked = _locked(folder / LOCK)
    if locked is None:
        raise InputError(
            f"{setting} {storage.uri}: another process is writing here; wait until it is done, or "
            "give another folder"
        )
    file, alone = locked
    try:
        for path in folder.rglob(".*.tmp") if alone else ():
            if is_unfinished(path.name):
                path.unlink()
        yield alone
    finally:
        with contextlib.suppress(OSError):
            os.unlink(folder / LOCK)  # before it is freed: a later process may hold a new one
        os.close(file)


def _locked(path: Path) -> tuple[int, bool] | None:
    """The open file, and whether it is locked; None while another process holds it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return file, False
            os.close(file)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file, True
        os.close(file)  # its holder removed it in between: a lock on no file of this folder
