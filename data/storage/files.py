"""What is known of a file, on a disk and in a bucket alike."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from semigrid.data.plausible import Count

NOT_THERE = (FileNotFoundError, NotADirectoryError)

# called right before every attempt at a change; raises to prevent it
Confirm = Callable[[], None]


def always() -> None:
    """Confirms every change."""


class UnusableFileError(OSError):
    """A file is larger than what may be read of it, damaged, or no regular file, such as a pipe."""


def check_size(size: int, limit: int | None) -> None:
    """Raises ``UnusableFileError`` if so many bytes are more than a limit, where there is one."""
    if limit is not None and size > limit:
        raise UnusableFileError(f"larger than {limit:,} bytes")


# what systems and programs leave in folders, beside names with a dot
_LEFT_BY_SYSTEMS = {"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir"}
_LEFT_BY_SYSTEMS |= {"$recycle.bin", "system volume information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not shown to people."""
    return name.startswith(".") and name != "." or name.lower() in _LEFT_BY_SYSTEMS


@dataclass(frozen=True)
class FileFacts:
    """Size and hash of a file, which reveal a damaged copy."""

    size: Count  # bytes
    sha256: str

    @staticmethod
    def of(content: bytes) -> "FileFacts":
        return FileFacts(len(content), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class FileStatus:
    """A file or folder; ``version`` changes with each write of a file, "" if nothing can tell."""

    size: int  # bytes
    version: str
    is_folder: bool
