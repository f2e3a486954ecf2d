"""One process at a time in a folder, as long as it lives: the kernel frees the lock of a dead one.

Buckets have no such locks, and some network shares have none either: nothing is locked there.
"""

import contextlib
import posixpath
from collections.abc import Iterator

from semigrid.data.errors import InputError
from semigrid.data.storage.local import is_unfinished
from semigrid.data.storage.locks import LockedError, locked
from semigrid.data.storage.storage import Storage, open_storage

# The file that is locked: there while a process works in the folder, and after it was killed.
LOCK = ".in-use"


@contextlib.contextmanager
def in_use(storage: Storage, setting: str) -> Iterator[bool]:
    """Keeps other processes out of a folder, which is made if it is missing, during the block.

    Yields whether others are really kept out. Nothing in the folder is touched.

    Args:
        setting: what names the folder in messages, such as ``--output``.

    Raises ``InputError`` at once where another process works in it, or there is a file.
    """
    folder = storage.local_path()
    if folder is None:
        yield False
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{setting} {storage.uri}: this is a file, or below one; give a new or an empty folder"
        ) from error
    with contextlib.ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(folder / LOCK, seconds=0))
        except LockedError as error:
            raise InputError(
                f"{setting} {storage.uri}: another process is writing here; wait until it is done, "
                "or give another folder"
            ) from error
        try:
            yield alone
        finally:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()


@contextlib.contextmanager
def new_folder(uri: str, setting: str) -> Iterator[Storage]:
    """A new or empty folder, kept for this process as by ``in_use``. Raises ``InputError``."""
    storage = open_storage(uri)
    with in_use(storage, setting):
        if storage.entries().keys() - {LOCK}:
            raise InputError(
                f"{setting} {storage.uri}: this folder is not empty; give a new or an empty folder"
            )
        yield storage


def remove_unfinished(storage: Storage, *folders: str) -> None:
    """Removes what killed processes left half written directly in these folders of a storage.

    They must be the caller's own, and locked: it would take away what others are writing.
    """
    for folder in folders:
        for name in filter(is_unfinished, storage.entries(folder)):
            storage.delete(posixpath.join(folder, name))
