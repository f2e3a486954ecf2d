"""An audit hook that notices what reading a stranger's file must not do."""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from semigrid.data.storage.local import cache_folder

_PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "pty.spawn"}
# Which arguments of an event are paths that it changes.
_CHANGES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"), (0,)),
    **dict.fromkeys(("os.link", "os.symlink"), (1,)),
    "os.rename": (0, 1),
}


_GIGABYTE = 2**30


class ForbiddenError(BaseException):
    """Not an ``Exception``: nothing between the deed and the test may swallow it."""


class Watch:
    """While entered: no program starts, no host is asked, nothing outside ``folder`` is written.

    The cache may be written, too. What was forbidden and done is raised where it happens, and
    once more at the end.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._allowed = tuple(
            f"{path}{os.sep}" for path in (folder, folder.resolve(), cache_folder())
        )
        self._on = False
        self._done: list[str] = []
        sys.addaudithook(self._hear)

    def __enter__(self) -> None:
        self._on, self._done = True, []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._on = False
        if self._done:
            raise ForbiddenError("; ".join(self._done)) from error

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in _PROGRAMS:
            self._refuse(f"{event}: {args[0]!r}")
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self._refuse(f"{event}: {args!r}")
        elif event == "open":
            path, mode, flags = args
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not isinstance(path, int):
                self._written(event, path)
        else:
            for number in _CHANGES.get(event, ()):
                self._written(event, args[number])

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        text = os.path.abspath(os.fsdecode(path))
        if not f"{text}{os.sep}".startswith(self._allowed) and text != os.devnull:
            self._refuse(f"{event}: {text}")

    def _refuse(self, deed: str) -> None:
        self._done.append(deed)
        raise ForbiddenError(deed)


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Raises ``MemoryError`` if this process took a gigabyte more than it ever had.

    Four times as many addresses end in one at once: an attack must not end the whole machine.
    """
    before, most = resource.getrlimit(resource.RLIMIT_AS), _most_memory()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * _GIGABYTE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    if _most_memory() > most + _GIGABYTE:
        raise MemoryError(f"{(_most_memory() - most) / _GIGABYTE:.1f} GiB were taken")


def _most_memory() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
