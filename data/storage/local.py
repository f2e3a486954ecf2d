"""Storage in a folder of a local disk or a mounted share."""

import contextlib
import errno
import fcntl
import glob
import os
import posixpath
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from semigrid.data.errors import StorageAwayError
from semigrid.data.storage.protocol import NOT_THERE, Confirm, FileStatus, Storage, always

# Tells this process from others that write into the same folder, also of other machines.
_PROCESS = uuid.uuid4().hex

T = TypeVar("T")

# errors of a mount, server or network that is away, but not of a full disk
AWAY = {errno.EAGAIN, errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO}
AWAY |= {errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENODEV, errno.ENOTCONN}
AWAY |= {errno.ENXIO, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT}
# errors of file systems without file locks
NO_FLOCK = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# longest wait for another process that is swapping the same file, in seconds
GUARD_SECONDS = 10.0


def cache_folder() -> Path:
    """The folder for files that can be made again: ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``."""
    home = Path.home() / ".cache" / "semigrid"
    return Path(os.environ.get("SEMIGRID_CACHE") or home).absolute()


class LocalStorage(Storage):
    """A local folder. Writes go to a file beside the target, which is then renamed.

    The storage counts as away while its ``anchor``, if it has one, is missing or empty. The anchor
    must have been made before and have a file. It is never made here, since that would put files
    under a mount point, or block the return of a folder that was moved away.
    """

    def __init__(self, root: str, anchor: str | None = None):
        self.uri, self.anchor = root, anchor

    def folder(self, *names: str) -> "LocalStorage":
        return LocalStorage(posixpath.join(self.uri, *filter(None, names)), self.anchor)

    def local_path(self, name: str = "") -> Path:
        return Path(self.location(name))

    def read(self, name: str = "") -> bytes:
        return self._do(self.local_path(name).read_bytes)

    def open(self, name: str = "", ahead: bool = False) -> BinaryIO:
        return self._do(lambda: self.local_path(name).open("rb"))

    def write(self, name: str, content: bytes, confirm: Confirm = always) -> None:
        self._do(lambda: self._write(self.local_path(name), content, confirm))

    def _write(self, path: Path, content: bytes, confirm: Confirm) -> None:
        self._make_folder(path.parent)
        # one name for all attempts of a thread: what an interrupted one left is written over
        writer = f"{_PROCESS}-{os.getpid()}-{threading.get_ident()}"
        beside = path.with_name(f".{path.name}.{writer}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or a power cut may keep the name and lose the bytes
            confirm()
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise

    def _make_folder(self, folder: Path) -> None:
        if self.anchor is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        if self._vanished():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.anchor)
        made = Path(self.anchor)
        for name in folder.relative_to(made).parts:
            made /= name
            with contextlib.suppress(FileExistsError):
                made.mkdir()  # without parents, so that it fails when the anchor is missing

    def keep(self, name: str, kept: str, confirm: Confirm = always) -> None:
        confirm()
        self.delete(kept)
        with contextlib.suppress(OSError):
            os.link(self.local_path(name), self.local_path(kept))

    def delete(self, name: str, confirm: Confirm = always) -> None:
        with contextlib.suppress(*NOT_THERE):
            self._do(lambda: _delete(self.local_path(name), confirm))

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        return self._do(lambda: self._swap(name, old, new))

    def _swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        path = self.local_path(name)
        # the lock is on another file, since each write makes a new one
        with _guard(path.with_name(f".{path.stem}.guard")) as guarded:
            if (path.read_bytes() if path.exists() else None) != old:
                return False
            if new is None:
                _delete(path, always)
            else:
                self._write(path, new, always)
            return guarded

    def status(self, name: str = "") -> FileStatus:
        facts = self._do(self.local_path(name).stat)
        return FileStatus(
            facts.st_size,
            f"{facts.st_mtime_ns}-{facts.st_ino}-{facts.st_size}",
            is_folder=stat.S_ISDIR(facts.st_mode),
        )

    def entries(self, folder: str = "") -> dict[str, FileStatus]:
        return self._do(lambda: _entries(self.local_path(folder)))

    def find(self, pattern: str = "**") -> list[str]:
        names = self._do(lambda: glob.glob(pattern, root_dir=self.uri, recursive=True))
        return sorted(name for name in names if self.local_path(name).is_file())

    def check_could_write(self) -> None:
        folder = self.local_path()
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")

    def _do(self, work: Callable[[], T]) -> T:
        """Turns errors into ``StorageAwayError`` where the storage is away."""
        try:
            with contextlib.suppress(*(() if self.anchor is None else NOT_THERE)):
                return work()
            return work()  # the storage may have been away and come back
        except OSError as error:
            missing = self.anchor is not None and isinstance(error, NOT_THERE)
            if error.errno in AWAY or missing and self._vanished():
                raise StorageAwayError(str(error)) from error
            raise

    def _vanished(self) -> bool:
        """Whether the anchor is missing or an empty mount point."""
        try:
            with os.scandir(self.anchor) as entries:
                return next(entries, None) is None
        except PermissionError:
            return False  # nothing to wait for
        except OSError:
            return True


def _delete(path: Path, confirm: Confirm) -> None:
    path.lstat()  # a missing file needs no confirmation
    confirm()
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _entries(folder: Path) -> dict[str, FileStatus]:
    entries = {}
    with os.scandir(folder) as listing:
        for entry in listing:
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                entries[entry.name] = FileStatus(entry.stat().st_size, is_folder=entry.is_dir())
    folder.stat()  # or the whole folder was moved away meanwhile
    return entries


@contextlib.contextmanager
def _guard(path: Path) -> Iterator[bool]:
    """Locks out other processes with a file; yields False on file systems without locks.

    Raises ``TimeoutError`` when another process holds the lock for ``GUARD_SECONDS``.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's file: reading suffices, except on some network shares
        file = os.open(path, os.O_RDONLY)
    try:
        yield _flock(file, path)
    finally:
        os.close(file)


def _flock(file: int, path: Path) -> bool:
    deadline = time.monotonic() + GUARD_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a process has held {path} for {GUARD_SECONDS:g} s") from None
        except OSError as error:
            if error.errno in NO_FLOCK:
                return False
            raise
        time.sleep(0.02)
