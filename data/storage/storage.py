"""Files in a folder or bucket: whole-file reads and atomic whole-file writes through fsspec."""

import contextlib
import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from semigrid.data.errors import InputError
from semigrid.data.storage.buckets import READERS, S3, open_filesystem, put_if_unchanged, refusal
from semigrid.data.storage.patience import NOT_THERE, storage_patience
from semigrid.data.storage.patience import patiently as wait_for

T = TypeVar("T")

ANY_PART: dict[str, Any] = {"cache_type": "none"}
AHEAD_BYTES, CHUNK_BYTES = 5 * 2**20, 64 * 2**20


@dataclass(frozen=True)
class FileFacts:
    """What tells a file from a damaged copy of it."""

    size: int  # bytes
    sha256: str

    @staticmethod
    def of(content: bytes) -> "FileFacts":
        return FileFacts(len(content), hashlib.sha256(content).hexdigest())


def cache_folder() -> Path:
    """Where this machine keeps what can be made again: ``$SEMIGRID_CACHE`` or a folder at home."""
    home = Path.home() / ".cache" / "semigrid"
    return Path(os.environ.get("SEMIGRID_CACHE") or home).absolute()


class Storage:
    """A folder by path or URI (``results``, ``s3://shop/experiments``).

    Names are relative paths with ``/``. A write is seen whole or not at all: on a local disk by
    writing beside the target and renaming, in a bucket because its put is atomic. Raises
    ``InputError`` for a URI of an unknown kind.

    With a ``patience`` (seconds), what fails because the storage is away for a while (a network,
    an unmounted or moved folder) is tried again for so long; then it raises
    ``StorageGoneError``. Such a storage never makes its own folder, ``anchor``: that would put
    files under a mount point, or stand in the way of the folder that is to come back. The folder
    counts as away while it is missing or empty, so it must be made and have a file before.
    ``folder`` keeps patience and anchor.

    A bucket is always waited for, for the patience given or else for ``storage_patience()``; when
    it refuses, that is a ``RefusedError`` (an ``InputError``) at once.
    """

    def __init__(self, uri: str | Path, patience: float = 0, anchor: str | None = None):
        self.fs, root = open_filesystem(str(uri))
        self.root: str = root.rstrip("/") or "/"
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.uri: str = self.root if self.is_local else self.fs.unstrip_protocol(self.root)
        self.patience = patience if self.is_local else patience or storage_patience()
        self.anchor = anchor or self.root

    def __reduce__(self) -> tuple[type["Storage"], tuple[str, float, str]]:
        return Storage, (self.uri, self.patience, self.anchor)

    def path(self, *names: str) -> str:
        return posixpath.join(self.root, *filter(None, names))

    def location(self, *names: str) -> str:
        """As people write it and other programs open it: a path, or a URI with its scheme."""
        return posixpath.join(self.uri, *filter(None, names))

    def folder(self, *names: str) -> "Storage":
        return Storage(posixpath.join(self.uri, *names), self.patience, self.anchor)

    def exists(self, name: str = "") -> bool:
        return self.size(name) is not None

    def size(self, name: str = "") -> int | None:
        """A file's bytes, any number for a folder; None if it is not there."""
        path = self.path(name)
        try:
            return self.patiently(lambda: self._size(path))
        except NOT_THERE:
            return None

    def _size(self, path: str) -> int:
        if self.is_local:
            return os.stat(path).st_size
        return int(self.fs.info(path)["size"] or 0)

    def stamp(self, name: str) -> str | None:
        """Tells one version of a file from the next; None while none is to be had."""
        try:
            return self.version(name)
        except OSError:
            return None

    def version(self, name: str = "") -> str:
        """Tells one version of a file from the next. Raises ``OSError``, of a folder, too."""
        path = self.path(name)
        facts = self.patiently(lambda: self.fs.info(path))
        if facts["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        known = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "ino")
        if not any(facts.get(name) for name in known):
            return str(self.fs.ukey(path))  # some kinds of storage have words of their own
        return str([facts.get(name) for name in (*known, "size")])

    def is_folder(self) -> bool:
        """Whether this is a folder: in a bucket, whether objects lie below it."""
        return self.patiently(self._is_folder)

    def _is_folder(self) -> bool:
        if self.is_local:
            return os.path.isdir(self.root)
        try:
            entries = self.fs.ls(self.root, detail=True)
        except NOT_THERE as error:
            if self.refusal(error):  # a bucket that is not there is not the same
                raise
            return False
        return any(entry["name"].rstrip("/") != self.root for entry in entries)

    def read(self, name: str = "") -> bytes:
        # s3fs would ask for the size first
        how = {"max_concurrency": 1} if S3[0] in self.fs.protocol else {}
        return self.patiently(lambda: bytes(self.fs.cat_file(self.path(name), **how)))

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Many files by name, those left out that are not there; of a bucket side by side."""

        def read(name: str) -> bytes | None:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None

        names = list(names)
        if self.is_local or len(names) < 2:
            found = list(map(read, names))
        else:
            with ThreadPoolExecutor(min(READERS, len(names))) as pool:
                found = list(pool.map(read, names))
        return {n: content for n, content in zip(names, found, strict=True) if content is not None}

    def open(self, name: str = "", ahead: bool = False) -> Any:
        """Opens a file to read parts of it: of a bucket just those, and nothing ahead of them.

        With ``ahead``, for many small parts one after the other, a bucket is asked for some
        mebibytes at a time.
        """
        path = self.path(name)
        if self.is_local:
            return self.fs.open(path, "rb")
        file = self.patiently(lambda: self._open_far(path, ahead))
        if (cache := getattr(file, "cache", None)) is not None:
            fetch = cache.fetcher
            cache.fetcher = lambda start, end: self.patiently(lambda: fetch(start, end))
        return file

    def _open_far(self, path: str, ahead: bool) -> Any:
        how = {"cache_type": "readahead", "block_size": AHEAD_BYTES} if ahead else ANY_PART
        with contextlib.suppress(TypeError):  # some file systems have no such choice
            return self.fs.open(path, "rb", **how)
        return self.fs.open(path, "rb")

    def chunks(self, name: str = "") -> Iterator[bytes]:
        """A file's content, some mebibytes at a time: it may be larger than the memory."""
        with self.open(name) as file:
            while content := file.read(CHUNK_BYTES):
                yield content

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, making its folders; readers see the old content or the new."""
        path = self.path(name)
        if not self.is_local:
            self.patiently(lambda: self._put(path, content))
            return
        folder, file = os.path.split(path)
        # one name for all attempts: what an interrupted one left is written over
        beside = os.path.join(folder, f".{file}.{uuid.uuid4().hex}.tmp")
        self.patiently(lambda: self._write(path, beside, content))

    def before_change(self) -> None:
        """Called right before each change, also when it is tried again; may refuse by raising."""

    def _put(self, path: str, content: bytes) -> None:
        self.before_change()
        self.fs.pipe_file(path, content)

    def _write(self, path: str, beside: str, content: bytes) -> None:
        self._make_folder(os.path.dirname(path))
        try:
            with open(beside, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may keep the name and lose the bytes
            self.before_change()
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(beside)
            raise

    def write_if_unchanged(self, name: str, content: bytes, stamp: str | None) -> bool:
        """Writes a file of a bucket if its ``etag`` is still ``stamp``; None for not there.

        False if it is another's now, or this very write's, whose answer was lost: read to tell.
        What a store can promise of it is what ``put_if_unchanged`` says.
        """
        path = self.path(name)
        return self.patiently(lambda: put_if_unchanged(self.fs, path, content, stamp))

    def etag(self, name: str) -> str | None:
        """A bucket's name for this version of a file; None if it is not there or has none."""
        try:
            facts = self.patiently(lambda: self.fs.info(self.path(name)))
        except NOT_THERE:
            return None
        etag: str | None = facts.get("ETag") or facts.get("etag")
        return etag

    def _make_folder(self, folder: str) -> None:
        if not self.patience:
            os.makedirs(folder, exist_ok=True)
            return
        if self.vanished():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.anchor)
        made = self.anchor
        for name in os.path.relpath(folder, self.anchor).split(os.sep):
            made = os.path.join(made, name)
            # not makedirs: without the anchor, this must fail
            if not os.path.isdir(made):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(made)

    def keep(self, name: str, kept: str) -> None:
        """Keeps a file's content under a second name too; later writes of the first leave that be.

        Does nothing on a file system that has no such way but to copy every byte.
        """
        old, new = self.path(name), self.path(kept)
        if not self.is_local:
            self.patiently(lambda: self._copy(old, new))
            return
        self.delete(kept)
        with contextlib.suppress(OSError):
            self.before_change()
            os.link(old, new)

    def _copy(self, old: str, new: str) -> None:
        self.before_change()
        self.fs.copy(old, new)

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Sorted names of the files directly in ``folder``; none if it is not there."""
        files = self._listing(folder)
        return sorted(name for name in files if name.endswith(suffix) and not name.startswith("."))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files directly in ``folder``, by name; of a bucket by one listing."""
        if not self.is_local:
            return self._listing(folder)
        sizes = {name: self.size(posixpath.join(folder, name)) for name in self._listing(folder)}
        return {name: size for name, size in sizes.items() if size is not None}

    def folders(self, folder: str) -> list[str]:
        """Sorted names of the folders directly in ``folder``; none if it is not there."""
        where = self.path(folder)
        try:
            return sorted(self.patiently(lambda: self._folders(where)))
        except NOT_THERE:
            return []

    def _folders(self, where: str) -> list[str]:
        if self.is_local:
            with os.scandir(where) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        self.fs.invalidate_cache()
        entries = self.fs.ls(where, detail=True)
        names = (entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")
        return [posixpath.basename(name) for name in names if name != where]

    def _listing(self, folder: str) -> dict[str, int]:
        where = self.path(folder)
        try:
            return self.patiently(lambda: self._files(where))
        except NOT_THERE:
            return {}

    def _files(self, where: str) -> dict[str, int]:
        """Names, and of a bucket's objects their bytes."""
        if self.is_local:
            # not fsspec's: of a folder that is moved away meanwhile it leaves out what it misses
            with os.scandir(where) as entries:
                return {entry.name: 0 for entry in entries if entry.is_file()}
        self.fs.invalidate_cache()  # another process may have written since the last listing
        entries = self.fs.ls(where, detail=True)
        files = (e for e in entries if e["type"] == "file" and e["name"] != where)
        return {posixpath.basename(e["name"]): int(e["size"] or 0) for e in files}

    def delete(self, name: str) -> None:
        """Removes a file or folder; nothing happens if it is not there."""
        path = self.path(name)
        with contextlib.suppress(*NOT_THERE):
            self.patiently(lambda: self._delete(path))

    def _delete(self, path: str) -> None:
        if S3[0] in self.fs.protocol:
            files = self.fs.find(path)
            if files:
                self.before_change()
                self.fs.rm(files)
            return
        self._size(path)
        self.before_change()
        self.fs.rm(path, recursive=True)

    def patiently(self, work: Callable[[], T]) -> T:
        """Does what reads here, as all that is here does: waits, and says what a refusal means."""
        if not self.is_local:
            try:
                return wait_for(work, self.uri, self.patience)
            except Exception as error:  # of fsspec's packages, each of which has its own
                raise self.refusal(error) or error from error.__cause__
        if not self.patience:
            return work()
        return wait_for(work, self.anchor, self.patience, self.vanished)

    def refusal(self, error: BaseException) -> InputError | None:
        """What a bucket's error means to the user if it refuses to do what it was asked."""
        return None if self.is_local else refusal(error, self.uri)

    def vanished(self) -> bool:
        """Whether the local folder is missing, or an empty mount point is in its place."""
        try:
            with os.scandir(self.anchor) as entries:
                return next(entries, None) is None
        except PermissionError:
            return False  # nothing to wait for
        except OSError:
            return True

    def check_could_write(self) -> None:
        """Raises ``OSError`` when nothing can be written here, found out without writing.

        A bucket is only reached for.
        """
        if not self.is_local:
            self.size()
            return
        there = Path(self.root)
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{there} may not be written")

    def check_writable(self) -> None:
        """Raises ``OSError`` when nothing can be written here."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"semigrid")
        self.delete(probe)
