"""Files on a local disk or a mounted share."""

import contextlib
import errno
import os
import posixpath
import re
import shutil
import stat
import threading
import uuid
from collections import Counter
from io import BufferedReader
from pathlib import Path

from semigrid.data.storage.files import (
    NOT_THERE,
    Confirm,
    FileStatus,
    UnusableFileError,
    always,
    check_size,
    is_hidden,
)
from semigrid.data.storage.locks import locked

# Tells this process from others that write into the same folder, also of other machines.
_PROCESS = uuid.uuid4().hex

# errors of a mount, server or network that is away, but not of a full disk
AWAY = {errno.EAGAIN, errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EIO}
AWAY |= {errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENODEV, errno.ENOTCONN}
AWAY |= {errno.ENXIO, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT}
# longest wait for another process that is swapping the same file, in seconds
GUARD_SECONDS = 10.0
# links to a folder that are followed: links to links to links could multiply it without end
MOST_LINKS = 100


def cache_folder() -> Path:
    """The folder for files that can be made again: ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``.

    It is made here where it is missing, for this user alone whatever the umask is: others could
    replace what is trusted, such as the hash of a file. Users who share one make it themselves.
    """
    home = Path.home() / ".cache" / "semigrid"
    folder = Path(os.environ.get("SEMIGRID_CACHE") or home).absolute()
    if not folder.exists():
        with contextlib.suppress(OSError):  # whoever writes into it will say so
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_unfinished(name: str) -> bool:
    """Whether a file is what ``LocalFiles.write`` writes to before it renames it."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}-\d+-\d+\.tmp", name) is not None


class LocalFiles:
    """Files by their paths. Writes go to a file beside the target, which is then renamed.

    The files count as away while their ``home``, if they have one, is missing or empty. That folder
    must have been made before and have a file. It is never made here, since that would put files
    under a mount point, or block the return of a folder that was moved away.
    """

    readers = 1  # files worth reading side by side

    def __init__(self, home: str | None = None):
        self.home = home
        # errors after which to look once more: home may have been away and come back
        self.doubtful = () if home is None else NOT_THERE

    def uri(self, path: str) -> str:
        return path

    def is_away(self, error: BaseException) -> bool:
        """Whether an error passes by itself."""
        missing = isinstance(error, NOT_THERE) and self._vanished()
        return missing or isinstance(error, OSError) and error.errno in AWAY

    def _vanished(self) -> bool:
        """Whether ``home`` is missing or an empty mount point."""
        if self.home is None:
            return False
        try:
            with os.scandir(self.home) as entries:
                return next(entries, None) is None
        except PermissionError:
            return False  # nothing to wait for
        except OSError:
            return True

    def read(self, path: str, limit: int | None = None) -> bytes:
        if limit is None:
            return Path(path).read_bytes()
        with self.open(path) as file:
            size = os.fstat(file.fileno()).st_size
            check_size(size, limit)
            content = file.read(size + 1)
            if len(content) > size:  # it grows, or it is one of Linux's own, of no size
                content += file.read(limit)
        check_size(len(content), limit)
        return content

    def open(self, path: str, ahead: bool = False, do: object = None) -> BufferedReader:
        # a pipe waits for its other end, and a device may have no end, or do something
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise UnusableFileError("not a regular file")
        return open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK))

    def write(self, path: str, content: bytes, confirm: Confirm) -> None:
        folder, name = os.path.split(path)
        self._make_folder(Path(folder))
        # one name for all attempts of a thread: what an interrupted one left is written over
        writer = f"{_PROCESS}-{os.getpid()}-{threading.get_ident()}"
        beside = Path(folder, f".{name}.{writer}.tmp")
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # or a power cut may keep the name and lose the bytes
            confirm()
            os.replace(beside, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            if isinstance(error, OSError) and error.errno:  # else it has a message of its own
                error.filename = path  # a full disk does not say which one
            raise

    def _make_folder(self, folder: Path) -> None:
        if self.home is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        if self._vanished():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.home)
        made = Path(self.home)
        for name in folder.relative_to(made).parts:
            made /= name
            with contextlib.suppress(FileExistsError):
                made.mkdir()  # without parents, so that it fails when home is missing

    def keep(self, path: str, kept: str, confirm: Confirm) -> None:
        confirm()
        self._make_folder(Path(kept).parent)
        Path(kept).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(path, kept)

    def delete(self, path: str, confirm: Confirm) -> None:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)  # a missing file needs no confirmation
        confirm()
        if is_folder:
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def swap(self, path: str, old: bytes | None, new: bytes | None) -> bool:
        file = Path(path)
        # the lock is on another file, since each write makes a new one
        with locked(file.with_name(f".{file.stem}.guard"), GUARD_SECONDS) as guarded:
            if (file.read_bytes() if file.exists() else None) != old:
                return False
            if new is None:
                file.unlink()
            else:
                self.write(path, new, always)
            return guarded

    def status(self, path: str) -> FileStatus:
        return _status(os.stat(path))

    def entries(self, folder: str) -> dict[str, FileStatus]:
        entries = {}
        with os.scandir(folder) as listing:
            for entry in listing:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    entries[entry.name] = _status(entry.stat())
        os.stat(folder)  # or the whole folder was moved away meanwhile
        return entries

    def walk(self, folder: str) -> list[tuple[str, str | None]]:
        """Names of all files below a folder, with why one is not to be read."""
        found: list[tuple[str, str | None]] = []
        waiting = [("", {_identity(os.stat(folder))})]  # folders, and those above each
        linked: Counter[tuple[int, int]] = Counter()
        while waiting:
            below, above = waiting.pop()
            try:
                with os.scandir(os.path.join(folder, below)) as listing:
                    entries = list(listing)
            except OSError as error:
                if not below:
                    raise
                found.append((below, f"folders that cannot be opened ({error.strerror})"))
                continue
            for entry in entries:
                name, problem = posixpath.join(below, entry.name), None
                if is_hidden(entry.name):
                    problem = "hidden files and folders"
                elif entry.is_symlink():
                    try:
                        target = entry.stat()
                    except OSError:
                        target, problem = os.lstat("/"), "links that lead nowhere"
                    identity = _identity(target)
                    linked[identity] += 1
                    if problem is None and stat.S_ISDIR(target.st_mode):
                        if identity in above or linked[identity] > MOST_LINKS:
                            problem = "links in a circle"
                        else:
                            waiting.append((name, above | {identity}))
                            continue
                elif entry.is_dir():
                    waiting.append((name, above | {_identity(entry.stat())}))
                    continue
                if problem is None and not entry.is_file():
                    problem = "pipes, sockets and devices"
                found.append((name, problem))
        return found

    def check_could_write(self, folder: str) -> None:
        there = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(f"{there} is not writable")


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _status(facts: os.stat_result) -> FileStatus:
    # ctime shows a change that kept size and time, as copying programs can
    version = f"{facts.st_mtime_ns}-{facts.st_ctime_ns}-{facts.st_ino}-{facts.st_size}"
    return FileStatus(facts.st_size, version, stat.S_ISDIR(facts.st_mode))
