"""Files in a folder or bucket: whole-file reads and atomic whole-file writes through fsspec."""

import contextlib
import errno
import hashlib
import os
import posixpath
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from data.errors import InputError
from data.patience import NOT_THERE, patiently

T = TypeVar("T")


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
    """

    def __init__(self, uri: str | Path, patience: float = 0, anchor: str | None = None):
        try:
            self.fs, root = fsspec.core.url_to_fs(str(uri))
        except (ValueError, ImportError) as error:  # an unknown protocol, or its package missing
            raise InputError(f"{uri}: not a path or URI that can be opened: {error}") from error
        self.root: str = root.rstrip("/") or "/"
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.uri: str = self.root if self.is_local else self.fs.unstrip_protocol(self.root)
        self.patience = patience
        self.anchor = anchor or self.root

    def __reduce__(self) -> tuple[type["Storage"], tuple[str, float, str]]:
        return Storage, (self.uri, self.patience, self.anchor)

    def path(self, *names: str) -> str:
        return posixpath.join(self.root, *names)

    def folder(self, *names: str) -> "Storage":
        return Storage(posixpath.join(self.uri, *names), self.patience, self.anchor)

    def exists(self, name: str = "") -> bool:
        return self.size(name) is not None

    def size(self, name: str = "") -> int | None:
        """A file's bytes, any number for a folder; None if it is not there."""
        path = self.path(name) if name else self.root
        try:
            return self._patiently(lambda: self._size(path))
        except NOT_THERE:
            return None

    def _size(self, path: str) -> int:
        if self.is_local:
            return os.stat(path).st_size
        return int(self.fs.info(path)["size"] or 0)

    def stamp(self, name: str) -> str | None:
        """Tells one version of a file from the next; None while none is to be had."""
        try:
            facts = self.fs.info(self.path(name))
        except OSError:
            return None
        known = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "ino", "size")
        return str([facts.get(name) for name in known])

    def read(self, name: str) -> bytes:
        return self._patiently(lambda: bytes(self.fs.cat_file(self.path(name))))

    def open(self, name: str = "") -> Any:
        """Opens a file to read parts of it: of a bucket just those, and nothing ahead of them."""
        path = self.path(name) if name else self.root
        if not self.is_local:
            with contextlib.suppress(TypeError):  # some file systems have no such choice
                return self.fs.open(path, "rb", cache_type="none")
        return self.fs.open(path, "rb")

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, making its folders; readers see the old content or the new."""
        path = self.path(name)
        if not self.is_local:
            self._patiently(lambda: self._put(path, content))
            return
        folder, file = os.path.split(path)
        # one name for all attempts: what an interrupted one left is written over
        beside = os.path.join(folder, f".{file}.{uuid.uuid4().hex}.tmp")
        self._patiently(lambda: self._write(path, beside, content))

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
            self._patiently(lambda: self._copy(old, new))
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
        where = self.path(folder) if folder else self.root
        try:
            names = self._patiently(lambda: self._files(where))
        except NOT_THERE:
            return []
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def _files(self, where: str) -> list[str]:
        if self.is_local:
            # not fsspec's: of a folder that is moved away meanwhile it leaves out what it misses
            with os.scandir(where) as entries:
                return [entry.name for entry in entries if entry.is_file()]
        self.fs.invalidate_cache()  # another process may have written since the last listing
        self._size(where)
        entries = self.fs.ls(where, detail=True)
        return [posixpath.basename(e["name"]) for e in entries if e["type"] == "file"]

    def delete(self, name: str) -> None:
        """Removes a file or folder; nothing happens if it is not there."""
        path = self.path(name) if name else self.root
        with contextlib.suppress(*NOT_THERE):
            self._patiently(lambda: self._delete(path))

    def _delete(self, path: str) -> None:
        self._size(path)
        self.before_change()
        self.fs.rm(path, recursive=True)

    def _patiently(self, work: Callable[[], T]) -> T:
        if not self.patience:
            return work()
        where = self.anchor if self.is_local else self.uri
        return patiently(work, where, self.patience, lambda: self.is_local and self.vanished())

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
            self.fs.exists(self.root)
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
