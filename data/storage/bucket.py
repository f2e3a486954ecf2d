"""Objects in a bucket, or files in any other file system of fsspec.

This is the one module with uses of fsspec and s3fs that their documentation does not promise;
``tests/data/storage/test_fsspec_names.py`` tests each of them: run it after an upgrade.
"""

import posixpath
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from io import BufferedReader
from typing import Any, cast

import fsspec

from semigrid.data.storage.address import S3, scheme_of
from semigrid.data.storage.bucket_errors import answer_of, is_away
from semigrid.data.storage.files import (
    NOT_THERE,
    Confirm,
    FileStatus,
    always,
    check_size,
    is_hidden,
)

READERS = 16  # files worth reading side by side
CONNECT_SECONDS, READ_SECONDS = 5, 20  # after which a silent server counts as away
S3_OPTIONS: dict[str, Any] = {
    # another process may have written since the last listing
    "use_listings_cache": False,
    "config_kwargs": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "max_pool_connections": 2 * READERS,
        # few attempts, since Storage waits, with a message and an end
        "retries": {"mode": "standard", "total_max_attempts": 2},
    },
}
# fields of ``info`` that change with a file's content, in various file systems
VERSION_FIELDS = (
    *("LastModified", "last_modified", "updated", "created", "mtime", "ETag", "etag"),
    *("Last-Modified", "Content-MD5", "Digest"),  # of web servers
    "blob_id",  # of Hugging Face
)
# answers to a conditional write of a file that has changed, or is gone
CHANGED = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND}
READ_AHEAD = {"cache_type": "readahead", "block_size": 5 * 2**20}


def open_filesystem(uri: str, **more: Any) -> tuple[Any, str]:
    """The file system of a URI, and the path in it. Raises ``ValueError``, ``ImportError``.

    ``more`` are the file system's options. fsspec's own ``url_to_fs`` would also open chains of
    file systems. ``retries`` is the number of attempts of s3fs, each of which includes botocore's.
    """
    scheme = scheme_of(uri)
    uri = scheme + uri[len(scheme) :]
    kind = fsspec.get_filesystem_class(scheme)
    options = kind._get_kwargs_from_urls(uri)
    if scheme in S3:
        options |= S3_OPTIONS
    fs = kind(**options, **more)
    if scheme in S3:
        fs.retries = 1
    return fs, kind._strip_protocol(uri)


class BucketFiles:
    """Files by their paths in a file system of fsspec, whose writes are atomic.

    Each machine takes credentials from its environment: unpickling opens the file system again.
    """

    readers, doubtful = READERS, ()

    def __init__(self, fs: Any, root: str):
        self._fs = fs
        self._is_s3 = S3[0] in fs.protocol
        self.root, self.home = root, self.uri(root)

    def __reduce__(self) -> tuple[Callable[..., "BucketFiles"], tuple[Any, ...]]:
        return bucket_files, (self.home,)

    def uri(self, path: str) -> str:
        return str(self._fs.unstrip_protocol(path))

    def is_away(self, error: BaseException) -> bool:
        """Whether an error passes by itself. Raises ``RefusedError`` if it means a refusal."""
        return is_away(error, self.home)

    def read(self, path: str, limit: int | None = None) -> bytes:
        # by default s3fs would ask for the size first
        how = {"max_concurrency": 1} if self._is_s3 else {}
        if limit is not None:
            how |= {"start": 0, "end": limit + 1}
        try:
            content = bytes(self._fs.cat_file(path, **how))
        except OSError as error:
            answer = answer_of(error)
            if answer is None or answer.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            content = b""  # an empty object has no first byte
        check_size(len(content), limit)
        return content

    def open(self, path: str, ahead: bool, do: Callable[..., Any]) -> BufferedReader:
        """Opens a file, whose requests are made by ``do`` of a function and its arguments."""
        file = self._fs.open(path, "rb", **(READ_AHEAD if ahead else {"cache_type": "none"}))
        if (cache := getattr(file, "cache", None)) is not None:
            cache.fetcher = partial(do, cache.fetcher)
        return cast(BufferedReader, file)

    def write(self, path: str, content: bytes, confirm: Confirm) -> None:
        confirm()
        self._fs.pipe_file(path, content)

    def keep(self, path: str, kept: str, confirm: Confirm) -> None:
        confirm()
        self._fs.copy(path, kept)

    def delete(self, path: str, confirm: Confirm) -> None:
        if files := self._fs.find(path):
            confirm()
            self._fs.rm(files)

    def swap(self, path: str, old: bytes | None, new: bytes | None) -> bool:
        # a store without conditions may let two processes write, and the answer to a successful put
        # may be lost: only reading again tells who won
        try:
            facts = self._fs.info(path)
            present = self.read(path)
        except NOT_THERE as error:
            self.is_away(error)  # raises if the bucket itself is missing
            facts, present = {}, None
        if present == old:
            if new is None:
                self.delete(path, always)
            else:
                self._put_if_unchanged(path, new, old, facts.get("ETag") or facts.get("etag"))
        return False

    def _put_if_unchanged(self, path: str, content: bytes, old: bytes | None, etag: Any) -> None:
        """Writes a file if it still has this ``etag`` or, where ``old`` is None, does not exist.

        ``pipe_file`` of s3fs passes ``IfMatch`` and ``IfNoneMatch`` to S3; others know
        ``mode="create"`` at most. A store without conditions always writes.
        """
        condition = {"IfMatch": etag} if self._is_s3 and etag else {}
        if old is None:
            condition = {"IfNoneMatch": "*"} if self._is_s3 else {"mode": "create"}
        try:
            self._fs.pipe_file(path, content, **condition)
        except FileExistsError:
            return
        except (TypeError, ValueError, NotImplementedError):
            self._fs.pipe_file(path, content)
        except OSError as error:
            status = answer.status if (answer := answer_of(error)) else 0
            if status == HTTPStatus.NOT_IMPLEMENTED:
                self._fs.pipe_file(path, content)
            elif status not in CHANGED:
                raise

    def status(self, path: str) -> FileStatus:
        return _status(self._fs.info(path))

    def entries(self, folder: str) -> dict[str, FileStatus]:
        self._fs.invalidate_cache()  # another process may have written since the last listing
        return {
            posixpath.basename(facts["name"].rstrip("/")): _status(facts)
            for facts in self._fs.ls(folder, detail=True)
            if facts["name"].rstrip("/") != folder
        }

    def walk(self, folder: str) -> list[tuple[str, str | None]]:
        """Names of all files below a folder, with why one is not to be read."""
        names = [path.removeprefix(folder).lstrip("/") for path in self._fs.find(folder)]
        hidden = "hidden files and folders"
        return [(n, hidden if any(map(is_hidden, n.split("/"))) else None) for n in names]

    def check_could_write(self, folder: str) -> None:
        try:
            self._fs.info(folder)
        except NOT_THERE as error:
            self.is_away(error)  # raises if the bucket itself is missing


def _status(facts: Mapping[str, Any]) -> FileStatus:
    version = version_of(facts, facts["size"])
    return FileStatus(int(facts["size"] or 0), version, facts["type"] == "directory")


def version_of(facts: Mapping[str, Any], size: int | None) -> str:
    """A file's version by the facts that are told of it, "" where none changes with its content."""
    told = {name: facts[name] for name in VERSION_FIELDS if facts.get(name)}
    return str([*told.items(), size]) if told else ""


def bucket_files(uri: str) -> BucketFiles:
    """The files at a URI. Raises ``ValueError`` and ``ImportError``."""
    return BucketFiles(*open_filesystem(uri))
