"""Storage in a bucket, or in any other file system of fsspec."""

import contextlib
import posixpath
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from semigrid.data.errors import StorageAwayError
from semigrid.data.storage.bucket_errors import is_away, refusal
from semigrid.data.storage.fsspec_names import (
    READERS,
    around_fetches,
    is_s3,
    open_filesystem,
    open_object,
    put_if_unchanged,
    read_object,
    version_of,
)
from semigrid.data.storage.protocol import NOT_THERE, Confirm, FileStatus, Storage, always

T = TypeVar("T")

BUCKETS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")


class BucketStorage(Storage):
    """A folder in a file system of fsspec with atomic writes.

    Each machine takes credentials from its environment: unpickling opens the file system again.
    """

    readers = READERS

    def __init__(self, fs: Any, root: str):
        self._fs, self._root = fs, root
        self.uri = fs.unstrip_protocol(root)

    def __reduce__(self) -> tuple[Callable[[str], "BucketStorage"], tuple[str]]:
        return _open, (self.uri,)

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    def folder(self, *names: str) -> "BucketStorage":
        return BucketStorage(self._fs, posixpath.join(self._root, *filter(None, names)))

    def local_path(self, name: str = "") -> None:
        return None

    def read(self, name: str = "") -> bytes:
        return self._do(lambda: read_object(self._fs, self._path(name)))

    def open(self, name: str = "", ahead: bool = False) -> BinaryIO:
        file: BinaryIO = self._do(lambda: open_object(self._fs, self._path(name), ahead))
        around_fetches(file, self._do)
        return file

    def write(self, name: str, content: bytes, confirm: Confirm = always) -> None:
        confirm()
        self._do(lambda: self._fs.pipe_file(self._path(name), content))

    def keep(self, name: str, kept: str, confirm: Confirm = always) -> None:
        confirm()
        self._do(lambda: self._fs.copy(self._path(name), self._path(kept)))

    def delete(self, name: str, confirm: Confirm = always) -> None:
        with contextlib.suppress(*NOT_THERE):
            self._do(lambda: self._delete(self._path(name), confirm))

    def _delete(self, path: str, confirm: Confirm) -> None:
        if not is_s3(self._fs):
            self._fs.info(path)  # a missing file needs no confirmation
            confirm()
            self._fs.rm(path, recursive=True)
        elif files := self._fs.find(path):
            confirm()
            self._fs.rm(files)

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        # a store without conditions may let two processes write, and the answer to a successful put
        # may be lost: only reading again tells who won
        etag = None if old is None else self._etag(name)
        if self.read_all([name]).get(name) == old:
            if new is None:
                self.delete(name)
            elif old is not None and etag is None:  # a store without versions
                self.write(name, new)
            else:
                content = new
                self._do(lambda: put_if_unchanged(self._fs, self._path(name), content, etag))
        return False

    def _etag(self, name: str) -> str | None:
        try:
            facts = self._do(lambda: self._fs.info(self._path(name)))
        except NOT_THERE:
            return None
        etag: str | None = facts.get("ETag") or facts.get("etag")
        return etag

    def status(self, name: str = "") -> FileStatus:
        facts = self._do(lambda: self._fs.info(self._path(name)))
        size, is_folder = int(facts["size"] or 0), facts["type"] == "directory"
        return FileStatus(size, version_of(facts), is_folder)

    def entries(self, folder: str = "") -> dict[str, FileStatus]:
        path = self._path(folder)
        self._fs.invalidate_cache()  # another process may have written since the last listing
        listing = self._do(lambda: self._fs.ls(path, detail=True))
        return {
            posixpath.basename(facts["name"].rstrip("/")): FileStatus(
                int(facts["size"] or 0), is_folder=facts["type"] == "directory"
            )
            for facts in listing
            if facts["name"].rstrip("/") != path
        }

    def find(self, pattern: str = "**") -> list[str]:
        if pattern == "**":
            paths = self._do(lambda: self._fs.find(self._root))
        else:
            paths = self._do(lambda: self._fs.glob(self._path(pattern)))
        names = (posixpath.relpath(path, self._root) for path in paths)
        return sorted(name for name in names if not f"/{name}".count("/."))

    def _do(self, work: Callable[[], T]) -> T:
        """Turns errors into ``StorageAwayError`` or ``RefusedError`` where they mean that."""
        try:
            return work()
        except Exception as error:  # each package of fsspec has its own errors
            if is_away(error):
                raise StorageAwayError(str(error)) from error
            raise refusal(error, self.uri) or error from error.__cause__


def _open(uri: str) -> BucketStorage:
    return BucketStorage(*open_filesystem(uri))
