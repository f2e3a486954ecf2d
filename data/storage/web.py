"""Files at web addresses, which are only read: lists of them contain dead and endless ones.

Redirects lead to other web addresses only, and take no credentials to another host (aiohttp).
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from io import BufferedReader
from typing import Any
from urllib.parse import urlsplit

from semigrid.data.errors import InputError
from semigrid.data.redact import shown, without_secrets
from semigrid.data.storage.bucket import CONNECT_SECONDS, READ_SECONDS, BucketFiles, open_filesystem
from semigrid.data.storage.files import FileStatus, check_size

# Longest time for a request with its answer, in seconds.
REQUEST_SECONDS = 60
# Requests in a row without an answer after which a host is asked no more by this process.
VAIN_REQUESTS = 3
_vain: Counter[str] = Counter()


def web_files(uri: str) -> "WebFiles":
    """The file at a web address. Raises ``ValueError`` and ``ImportError``."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS
    )
    return WebFiles(*open_filesystem(uri, client_kwargs={"timeout": timeout}))


class WebFiles(BucketFiles):
    """Files by their web addresses. Every error is an ``OSError`` that shows no secret."""

    def __reduce__(self) -> tuple[Callable[[str], "WebFiles"], tuple[str]]:
        return web_files, (self.home,)

    def read(self, path: str, limit: int | None = None) -> bytes:
        content = bytearray()
        # as a stream, without asking for the size: servers may not tell it, or lie
        with _asking(path), self._fs.open(path, "rb", block_size=0, size=1) as file:
            while piece := file.read(2**20):
                content += piece
                check_size(len(content), limit)
        return bytes(content)

    def open(self, path: str, ahead: bool, do: Callable[..., Any]) -> BufferedReader:
        def ask(work: Callable[..., Any], *args: Any) -> Any:
            with _asking(path):
                return do(work, *args)

        with _asking(path):
            file = super().open(path, ahead, ask)
        if file.size is None:  # type: ignore[attr-defined]  # fsspec's
            raise OSError("the server sends this file only as a whole; download it first")
        return file

    def status(self, path: str) -> FileStatus:
        with _asking(path):
            return super().status(path)

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


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Within this context, a host is asked; turns what goes wrong into ``OSError``."""
    host = urlsplit(shown(uri)).netloc
    if _vain[host] >= VAIN_REQUESTS:
        raise TimeoutError(f"{host} did not answer {VAIN_REQUESTS} times, and is asked no more")
    try:
        yield
        del _vain[host]
    except Exception as error:  # aiohttp's and fsspec's, few of which are OSErrors
        cause: BaseException = error
        while isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
            cause = cause.__cause__  # fsspec calls everything a missing file
        if isinstance(cause, TimeoutError):
            _vain[host] += 1
            seconds = f"{READ_SECONDS} seconds, or its answer took more than {REQUEST_SECONDS}"
            raise TimeoutError(f"{host} did not answer for {seconds}") from error
        answered = getattr(cause, "status", None)
        if answered == HTTPStatus.NOT_FOUND or isinstance(cause, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown(uri)) from error
        if answered:
            said = f"HTTP {answered} {getattr(cause, 'message', '')}".rstrip()
            raise OSError(f"{host} answered {said}") from error
        said = without_secrets(str(cause)) or type(cause).__name__
        kind = type(cause).__name__
        raise OSError(f"{kind}: {said}" if "Redirect" in kind else said) from error
