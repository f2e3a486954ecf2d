"""A storage around another, the common base of waiting and fencing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from semigrid.data.storage.fsspec_names import around_fetches
from semigrid.data.storage.protocol import Confirm, FileStatus, Storage, always

T = TypeVar("T")


class StorageWrapper(Storage):
    """A storage that passes all calls except ``folder`` on to another one."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.uri, self.patience, self.readers = storage.uri, storage.patience, storage.readers

    def _do(self, work: Callable[[], T]) -> T:
        """Runs a piece of work of the wrapped storage."""
        return work()

    def local_path(self, name: str = "") -> Path | None:
        return self.storage.local_path(name)

    def read(self, name: str = "") -> bytes:
        return self._do(lambda: self.storage.read(name))

    def open(self, name: str = "", ahead: bool = False) -> BinaryIO:
        file = self._do(lambda: self.storage.open(name, ahead))
        around_fetches(file, self._do)
        return file

    def write(self, name: str, content: bytes, confirm: Confirm = always) -> None:
        self._do(lambda: self.storage.write(name, content, confirm))

    def keep(self, name: str, kept: str, confirm: Confirm = always) -> None:
        self._do(lambda: self.storage.keep(name, kept, confirm))

    def delete(self, name: str, confirm: Confirm = always) -> None:
        self._do(lambda: self.storage.delete(name, confirm))

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        return self._do(lambda: self.storage.swap(name, old, new))

    def status(self, name: str = "") -> FileStatus:
        return self._do(lambda: self.storage.status(name))

    def entries(self, folder: str = "") -> Mapping[str, FileStatus]:
        return self._do(lambda: self.storage.entries(folder))

    def find(self, pattern: str = "**") -> list[str]:
        return self._do(lambda: self.storage.find(pattern))

    def check_could_write(self) -> None:
        self._do(self.storage.check_could_write)
