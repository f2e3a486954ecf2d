"""Files at web addresses, which are only read: lists of them contain dead and endless ones.

Redirects lead to other web addresses only, and take no credentials to another host (aiohttp).
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from io import BufferedReader
from typing import Any, TypeVar
from urllib.parse import urlsplit

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.escape import visible
from semigrid.data.redact import shown, without_secrets
from semigrid.data.storage.bucket import (
    CONNECT_SECONDS,
    READ_SECONDS,
    READERS,
    BucketFiles,
    open_filesystem,
    version_of,
)
from semigrid.data.storage.busy import BUSY, BusyAnswerError, seconds_to_wait, while_busy
from semigrid.data.storage.files import FileStatus, UnusableFileError, check_size

# Longest time for a request with its answer, in seconds, beside the time that its size allows for.
REQUEST_SECONDS = 60
# Bytes of an answer that may take a second.
SLOWEST_BYTES = 10**6
# Reads in a row in vain after which a host that never answered is asked no more by this process,
# and after which one that did counts as gone. So many questions about files, which are asked side
# by side and stall together, count as one read.
VAIN_REQUESTS = 3
VAIN_BEFORE_GONE = 10
QUESTIONS = READERS
# headers that fsspec tells of a file, too, and that change with its content
VERSION_HEADERS = ("ETag", "Last-Modified", "Content-MD5", "Digest")
_vain: Counter[str] = Counter()
_answered: set[str] = set()

T = TypeVar("T")


def host_of(uri: str) -> str:
    """The host of a web address, with its port."""
    return urlsplit(shown(uri)).netloc


def answered_hosts() -> frozenset[str]:
    """Hosts that answered this process, or another that said so by ``remember_answered``."""
    return frozenset(_answered)


def remember_answered(hosts: Iterable[str]) -> None:
    """Tells this process of hosts that answered another, so that their silence is no dead link."""
    _answered.update(hosts)


def web_files(uri: str, patience: float) -> "WebFiles":
    """The file at a web address. Raises ``ValueError`` and ``ImportError``.

    ``patience`` is how many seconds a server is waited for that says that it is busy.
    """
    files = WebFiles(*open_filesystem(uri, client_kwargs={"timeout": _timeout(0)}))
    files.patience = patience
    return files


class WebFiles(BucketFiles):
    """Files by their web addresses. Every error is an ``OSError`` that shows no secret.

    Reading raises ``ServerBusyError`` where a server stays busy.
    """

    patience = 0.0

    def __reduce__(self) -> tuple[Callable[..., "WebFiles"], tuple[str, float]]:
        return web_files, (self.home, self.patience)

    def read(self, path: str, limit: int | None = None) -> bytes:
        return self.read_with_version(path, limit)[0]

    def read_with_version(self, path: str, limit: int | None = None) -> tuple[bytes, str]:
        """A file's content, and its version as of ``status``, which would take a second request."""
        return self._while_busy(path, partial(self._read, path, limit))

    def _read(self, path: str, limit: int | None) -> tuple[bytes, str]:
        content = bytearray()
        # as it is stored, since other encodings have other versions
        how = {"timeout": _timeout(limit or 0), "headers": {"Accept-Encoding": "identity"}}
        # as a stream, without asking for the size: servers may not tell it, or lie
        with (
            _asking(path, limit or 0),
            self._fs.open(path, "rb", block_size=0, size=1, **how) as file,
        ):
            while piece := file.read(2**20):
                content += piece
                check_size(len(content), limit)
            told = file.r.headers
        facts = {name: told[name] for name in VERSION_HEADERS if name in told}
        length = told.get("Content-Length")
        return bytes(content), version_of(facts, None if length is None else int(length))

    def open(self, path: str, ahead: bool, do: Callable[..., Any]) -> BufferedReader:
        def asked(work: Callable[..., Any], *args: Any) -> Any:
            with _asking(path):
                return work(*args)

        def ask(*args: Any) -> Any:
            return self._while_busy(path, partial(asked, do, *args))

        file: BufferedReader = self._while_busy(
            path, partial(asked, super().open, path, ahead, ask)
        )
        if file.size is None:  # type: ignore[attr-defined]  # fsspec's
            raise OSError("the server sends this file only as a whole; download it first")
        return file

    def status(self, path: str) -> FileStatus:
        return self._while_busy(path, partial(self._status, path))

    def _status(self, path: str) -> FileStatus:
        with _asking(path, weight=1):
            return super().status(path)

    def _while_busy(self, path: str, work: Callable[[], T]) -> T:
        return while_busy(host_of(path), self.patience, work)

    def entries(self, folder: str) -> dict[str, FileStatus]:
        raise self._unlisted(folder)

    def walk(self, folder: str) -> list[tuple[str, str | None]]:
        raise self._unlisted(folder)

    def _unlisted(self, folder: str) -> InputError:
        # fsspec would take the links of a page for files
        return InputError(
            f"{folder}: the web has no lists of files; give a file or a table, or copy the folder "
            "to this machine"
        )


def _timeout(size: int) -> Any:
    """How long an answer of so many bytes, at most, may take."""
    import aiohttp

    return aiohttp.ClientTimeout(
        total=_seconds(size), sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
    )


def _seconds(size: int) -> float:
    return REQUEST_SECONDS + size / SLOWEST_BYTES


@contextmanager
def _asking(uri: str, size: int = 0, weight: int = QUESTIONS) -> Iterator[None]:
    """Within this context, a host is asked; turns what goes wrong into ``OSError``.

    Raises ``StorageGoneError`` when a host that once answered does so no more, and ``TimeoutError``
    where another attempt is in vain.

    Args:
        size: largest size of the answer in bytes.
        weight: how many ``QUESTIONS`` a request in vain counts for.
    """
    host = host_of(uri)
    if host not in _answered and _vain[host] >= VAIN_REQUESTS * QUESTIONS:
        raise TimeoutError(f"{host} did not answer {VAIN_REQUESTS} times, and is asked no more")
    try:
        yield
        _has_answered(host)
    except StorageGoneError:
        raise
    except Exception as error:  # aiohttp's and fsspec's, few of which are OSErrors
        cause: BaseException = error
        while isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
            cause = cause.__cause__  # fsspec calls everything a missing file
        answered = getattr(cause, "status", None)
        if answered or isinstance(cause, FileNotFoundError | UnusableFileError):
            _has_answered(host)
        if answered == HTTPStatus.NOT_FOUND or isinstance(cause, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(uri)) from error
        if isinstance(cause, UnusableFileError):
            raise
        if answered:
            said = visible(f"HTTP {answered} {getattr(cause, 'message', '')}".rstrip()[:200])
            if answered in BUSY:
                wait = seconds_to_wait(getattr(cause, "headers", None))
                raise BusyAnswerError(answered, said, wait) from error
            raise OSError(f"{host} answered {said}") from error
        problem = _problem(host, cause, size)
        # a dead host that never answered says so at once, and is not waited for
        if isinstance(problem, TimeoutError) or host in _answered and _is_away(cause):
            _count_vain(host, problem, weight)
        raise problem from error


def _has_answered(host: str) -> None:
    _answered.add(host)
    _vain.pop(host, None)


def _is_away(cause: BaseException) -> bool:
    names = {kind.__name__ for kind in type(cause).__mro__}
    return isinstance(cause, TimeoutError) or "ClientConnectionError" in names


def _count_vain(host: str, problem: OSError, weight: int) -> None:
    _vain[host] += weight
    if host in _answered and _vain[host] >= VAIN_BEFORE_GONE * QUESTIONS:
        raise StorageGoneError(
            f"{host}: this server answered before, but no more ({problem}); what is done so far is "
            "kept: run the same command again when it is back"
        ) from problem


def _problem(host: str, cause: BaseException, size: int) -> OSError:
    """What to say of a request without an answer, or without a whole one."""
    if not isinstance(cause, TimeoutError):
        kind = type(cause).__name__
        said = without_secrets(str(cause)) or kind
        return OSError(f"{kind}: {said}" if "Redirect" in kind else said)
    kinds = {kind.__name__ for kind in type(cause.__cause__ or cause).__mro__}
    if "ServerTimeoutError" not in kinds:  # aiohttp's for silence
        return TimeoutError(f"{host} is too slow: its answer took more than {_seconds(size):g} s")
    said = f"{host} did not answer for {READ_SECONDS} seconds"
    # a host that is known to answer may do so at the next attempt
    return OSError(said) if host in _answered else TimeoutError(said)
