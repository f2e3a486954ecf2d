"""What files are at the moment, so that what was made of them is used only while they stay so."""

import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.sources.items import Item
from semigrid.data.storage import FileStatus, open_storage
from semigrid.data.storage.address import WEB
from semigrid.data.storage.bucket import READERS

# Files of a bucket's folder from which on one listing is faster than asking for each: it lists what
# else lies there, too, which may be millions of files, a thousand with each request.
WORTH_LISTING = 1000


def versions_of(items: Sequence[Item], *, web: bool = True) -> list[str | None]:
    """A string for each item that changes with its file's content, None where nothing can tell.

    A disk tells by a file's size, times and inode; a bucket and a web server by the ETag or the
    time of the last change, if they give one. A part of a file has the version of the file.
    Generated images have an identity instead.

    Args:
        web: whether to ask web servers, which takes a request for each file.

    Raises ``StorageGoneError`` when a bucket, or a web server that answered before, stays away.
    """
    known: dict[str, str | None] = {}
    alone, folders = [], dict[str, list[str]]()
    for uri in dict.fromkeys(item.uri for item in items if item.identity is None):
        scheme, _, rest = uri.partition("://")
        if not rest:  # on a disk, where asking is quick
            known[uri] = _version(uri)
        elif scheme.lower() not in WEB:
            folders.setdefault(posixpath.dirname(uri), []).append(uri)
        elif web:
            alone.append(uri)
    for folder, uris in folders.items():
        if len(uris) >= WORTH_LISTING and (found := _listing(folder)) is not None:
            for uri in uris:
                status = found.get(posixpath.basename(uri))
                known[uri] = None if status is None else status.version
        else:
            alone += uris
    with ThreadPoolExecutor(READERS) as pool:
        known |= zip(alone, pool.map(_version, alone), strict=True)
    return [item.identity or known.get(item.uri) or None for item in items]


def _version(uri: str) -> str | None:
    """The version of one file; None for one that is missing, or may not be asked for."""
    try:
        return open_storage(uri).version()
    except StorageGoneError:
        raise
    except Exception:  # every protocol has its own errors, and reading says which one it is
        return None


def _listing(folder: str) -> Mapping[str, FileStatus] | None:
    try:
        return open_storage(folder).entries()
    except InputError:  # reading is allowed, but listing is not
        return None
