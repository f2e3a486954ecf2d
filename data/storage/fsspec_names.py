"""All uses of fsspec and s3fs that their documentation does not promise.

``tests/data/storage/test_fsspec_names.py`` tests each of them: run it after an upgrade.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import fsspec

from semigrid.data.storage.bucket_errors import answer_of, refusal

T = TypeVar("T")


class Do(Protocol):
    """Runs a piece of work."""

    def __call__(self, work: Callable[[], T]) -> T: ...


S3 = ("s3", "s3a")
# time-outs in seconds, after which a silent server counts as away
CONNECT_SECONDS, READ_SECONDS = 5, 20
# objects to read at the same time
READERS = 16
S3_OPTIONS: dict[str, Any] = {
    # another process may have written since the last listing
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 2 * READERS,
        # few attempts, since PatientStorage waits, with a message and an end
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}
# fields of ``info`` that change with a file's content, in various file systems
VERSION_FIELDS = ("LastModified", "last_modified", "updated", "created", "mtime", "ETag", "etag")
READ_AHEAD_BYTES = 5 * 2**20
NOT_IMPLEMENTED = 501
CONDITION_FAILED = {409, 412}


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The file system of a path or URI, and the path in it. Raises ``ValueError``, ``ImportError``.

    ``retries`` is the number of attempts of s3fs, each of which includes botocore's attempts.
    """
    is_s3 = uri.partition("://")[0] in S3
    fs, root = fsspec.core.url_to_fs(uri, **(S3_OPTIONS if is_s3 else {}))
    if is_s3:
        fs.retries = 1
    return fs, root


def is_s3(fs: Any) -> bool:
    return S3[0] in fs.protocol


def read_object(fs: Any, path: str) -> bytes:
    """Reads an object in one request; by default s3fs would ask for its size first."""
    return bytes(fs.cat_file(path, **({"max_concurrency": 1} if is_s3(fs) else {})))


def open_object(fs: Any, path: str, ahead: bool) -> Any:
    """Opens an object; ``cache_type`` determines how much is fetched ahead."""
    how = {"cache_type": "readahead", "block_size": READ_AHEAD_BYTES}
    try:
        return fs.open(path, "rb", **(how if ahead else {"cache_type": "none"}))
    except TypeError:  # some file systems lack these options
        return fs.open(path, "rb")


def around_fetches(file: Any, do: Do) -> None:
    """Runs each request of an open file, which ``cache.fetcher`` makes, with ``do``."""
    if (cache := getattr(file, "cache", None)) is not None:
        fetch = cache.fetcher
        cache.fetcher = lambda start, end: do(lambda: fetch(start, end))


def version_of(facts: dict[str, Any]) -> str:
    """A string that differs between versions of an object, from its ``info``."""
    return str([facts.get(name) for name in (*VERSION_FIELDS, "size")])


def put_if_unchanged(fs: Any, path: str, content: bytes, etag: str | None) -> bool:
    """Writes an object if it still has this ``etag`` or, for None, does not exist.

    False if it changed, or if the answer to this write was lost. ``pipe_file`` of s3fs passes
    ``IfMatch`` and ``IfNoneMatch`` to S3; others know ``mode="create"`` at most. A store without
    conditions always writes.
    """
    match = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    if not is_s3(fs):
        match = {"mode": "create"} if etag is None else {}
    try:
        fs.pipe_file(path, content, **match)
    except (TypeError, ValueError, NotImplementedError):
        fs.pipe_file(path, content)
    except OSError as error:
        status = answer.status if (answer := answer_of(error)) else 0
        missing = isinstance(error, FileNotFoundError) and not refusal(error, path)
        if missing or isinstance(error, FileExistsError) or status in CONDITION_FAILED:
            return False
        if status != NOT_IMPLEMENTED:
            raise
        fs.pipe_file(path, content)
    return True
