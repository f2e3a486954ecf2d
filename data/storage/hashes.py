"""SHA-256 of files, computed once on each machine for as long as a file stays as it is."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.storage.local import cache_folder
from semigrid.data.storage.locks import locked
from semigrid.data.storage.storage import Storage, open_storage


def file_hash(uri: str) -> str:
    """``hash_of`` for a file that the user named. Raises ``InputError`` if it cannot be read."""
    try:
        return hash_of(open_storage(uri))
    except (RefusedError, StorageGoneError):  # their messages are clear already
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{uri!r}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{uri!r}: cannot be read: {error}") from error


def hash_of(storage: Storage) -> str:
    """SHA-256 of a file, cached for as long as the file's size and time stay the same.

    Other processes of this machine that want it meanwhile wait for it. Raises ``OSError``.
    """
    version = storage.version()
    told = f"{storage.uri} {version}".encode(errors="surrogateescape")  # a path may be any bytes
    key = hashlib.sha256(told).hexdigest()
    folder = _folder()
    cache = None if folder is None else open_storage(folder)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            with contextlib.suppress(OSError):  # else the file is read once by each
                # some files share a lock, so that there are few, which nobody needs to remove
                stack.enter_context(locked(folder / f".{key[:2]}.lock"))
        if version and cache and cache.exists(key):
            return cache.read(key).decode()
        with storage.open(ahead=True) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(OSError):  # a cache that cannot be written stops nothing
            if cache:
                cache.write(key, digest.encode())
        return digest


def _folder() -> Path | None:
    """In the cache, or else one that only this user can write, below the temporary directory."""
    with contextlib.suppress(OSError):
        folder = cache_folder() / "hashes"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir(), f"semigrid-hashes-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        # another user's would make a damaged file pass for a whole one
        if (
            stat.S_ISDIR(facts.st_mode)
            and facts.st_uid == os.getuid()
            and not facts.st_mode & 0o022
        ):
            return folder
    return None
