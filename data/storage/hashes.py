"""SHA-256 of files, computed once on each machine for as long as a file stays as it is."""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator

from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.storage.local import cache_folder
from semigrid.data.storage.storage import open_storage


def file_hash(uri: str) -> str:
    """SHA-256 of a file, cached for as long as the file's size and time stay the same.

    Other processes of this machine that want it meanwhile wait for it. Raises ``InputError`` if
    there is no such file.
    """
    storage = open_storage(uri)
    try:
        version = storage.version()
        key = hashlib.sha256(f"{uri} {version}".encode()).hexdigest()
        cache = open_storage(cache_folder()).folder("hashes")
        with _alone(key):
            if version and cache.exists(key):
                return cache.read(key).decode()
            with storage.open(ahead=True) as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            with contextlib.suppress(OSError):  # a cache that cannot be written stops nothing
                cache.write(key, digest.encode())
    except (RefusedError, StorageGoneError):  # their messages are clear already
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{uri!r}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{uri!r}: cannot be read: {error}") from error
    return digest


@contextlib.contextmanager
def _alone(key: str) -> Iterator[None]:
    """Lets one process of this machine at a time hash a file, where there are locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # else the file is read once by each
            folder = cache_folder() / "hashes"
            folder.mkdir(parents=True, exist_ok=True)
            # some files share a lock, so that there are few, which nobody needs to remove
            lock = stack.enter_context((folder / f".{key[:2]}.lock").open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
