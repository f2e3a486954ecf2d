"""The protocol of a storage: a few abstract methods, and others built on them."""

import errno
import hashlib
import os
import posixpath
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NOT_THERE = (FileNotFoundError, NotADirectoryError)
CHUNK_BYTES = 64 * 2**20

# called right before every attempt at a change; raises to prevent it
Confirm = Callable[[], None]


def always() -> None:
    """Confirms every change."""


@dataclass(frozen=True)
class FileFacts:
    """Size and hash of a file, which reveal a damaged copy."""

    size: int  # bytes
    sha256: str

    @staticmethod
    def of(content: bytes) -> "FileFacts":
        return FileFacts(len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class FileStatus:
    """A file or folder as the storage lists it; ``version`` changes with each write of a file."""

    size: int  # bytes
    version: str = ""
    is_folder: bool = False


class Storage(ABC):
    """A folder on a disk or in a bucket; ``open_storage`` opens one by path or URI.

    Names are relative paths with ``/``; the empty name is the folder itself. Readers see a write
    whole or not at all. Every method may raise ``StorageAwayError`` (a passing problem),
    ``RefusedError`` (a bucket refuses) and ``FileNotFoundError``. A storage with ``patience``, in
    seconds, waits instead of raising the first, and then raises ``StorageGoneError``.
    """

    uri: str
    patience: float = 0
    readers: int = 1  # files worth reading side by side

    @abstractmethod
    def folder(self, *names: str) -> "Storage":
        """The storage of a folder in this one."""

    @abstractmethod
    def local_path(self, name: str = "") -> Path | None:
        """The path of a file for other programs on this machine; None in a bucket."""

    @abstractmethod
    def read(self, name: str = "") -> bytes:
        """A file's content."""

    @abstractmethod
    def open(self, name: str = "", ahead: bool = False) -> BinaryIO:
        """Opens a file for reading; only the parts that are read are fetched from a bucket.

        With ``ahead``, a bucket is read several mebibytes at a time, for many small parts in a row.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, confirm: Confirm = always) -> None:
        """Writes a whole file, making its folders; readers see the old content or the new."""

    @abstractmethod
    def keep(self, name: str, kept: str, confirm: Confirm = always) -> None:
        """Keeps a file's content under a second name, unchanged by later writes of the first.

        Does nothing on a disk without hard links.
        """

    @abstractmethod
    def delete(self, name: str, confirm: Confirm = always) -> None:
        """Removes a file or folder; does nothing if it is missing."""

    @abstractmethod
    def swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        """Replaces a file if its content is still ``old``; None stands for no file.

        True if it was replaced and no other process can have replaced it at the same time. False if
        another process was faster or nothing can tell; read the file again after a while.
        """

    @abstractmethod
    def status(self, name: str = "") -> FileStatus:
        """Size, version and kind of a file or folder."""

    @abstractmethod
    def entries(self, folder: str = "") -> Mapping[str, FileStatus]:
        """The files and folders directly in a folder, by name, without their versions."""

    @abstractmethod
    def find(self, pattern: str = "**") -> list[str]:
        """Sorted names of matching visible files; ``*`` is within a folder, ``**`` at any depth."""

    def check_could_write(self) -> None:
        """Raises ``OSError`` when nothing can be written here, without writing anything.

        In a bucket it only checks that the bucket answers.
        """
        self.exists()

    def location(self, *names: str) -> str:
        """The path or URI of a file, for people and other programs."""
        return posixpath.join(self.uri, *filter(None, names))

    def size(self, name: str = "") -> int | None:
        """A file's size in bytes, any number for a folder, None if it is missing."""
        with suppress(*NOT_THERE):
            return self.status(name).size
        return None

    def exists(self, name: str = "") -> bool:
        return self.size(name) is not None

    def is_folder(self) -> bool:
        """Whether this is a folder; in a bucket, whether there are objects below it."""
        with suppress(*NOT_THERE):
            return self.status().is_folder
        return False

    def version(self, name: str = "") -> str:
        """A string that changes with each write of a file. Raises ``IsADirectoryError``."""
        status = self.status(name)
        if status.is_folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.location(name))
        return status.version

    def stamp(self, name: str) -> str | None:
        """A file's version, or None if it is missing or the storage is away."""
        with suppress(OSError):
            return self.version(name)
        return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The contents of many files by name, without missing files."""

        def read(name: str) -> bytes | None:
            with suppress(FileNotFoundError):
                return self.read(name)
            return None

        names = list(names)
        if self.readers == 1 or len(names) < 2:
            contents = list(map(read, names))
        else:
            with ThreadPoolExecutor(min(self.readers, len(names))) as pool:
                contents = list(pool.map(read, names))
        return {n: text for n, text in zip(names, contents, strict=True) if text is not None}

    def chunks(self, name: str = "") -> Iterator[bytes]:
        """Yields a file's content in parts, since it may be larger than the memory."""
        with self.open(name) as file:
            while content := file.read(CHUNK_BYTES):
                yield content

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names of the visible files directly in a folder, none if it is missing."""
        return sorted(
            name
            for name in self.sizes(folder)
            if name.endswith(suffix) and not name.startswith(".")
        )

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of the files directly in a folder, by name, from one listing."""
        entries = self._entries_if_there(folder)
        return {name: entry.size for name, entry in entries.items() if not entry.is_folder}

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders directly in a folder, none if it is missing."""
        entries = self._entries_if_there(folder)
        return sorted(name for name, entry in entries.items() if entry.is_folder)

    def _entries_if_there(self, folder: str) -> Mapping[str, FileStatus]:
        try:
            return self.entries(folder)
        except NOT_THERE:
            return {}

    def check_writable(self) -> None:
        """Raises ``OSError`` when nothing can be written here."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"semigrid")
        self.delete(probe)
