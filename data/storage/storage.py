"""A folder on a disk or in a bucket, which is waited for while it is away."""

import errno
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import tenacity

from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.escape import visible
from semigrid.data.redact import shown, without_secrets
from semigrid.data.storage.address import READ_ONLY, S3, WEB, local_path, scheme_of
from semigrid.data.storage.bucket import BucketFiles, bucket_files
from semigrid.data.storage.bucket_errors import CREDENTIALS, is_foreign
from semigrid.data.storage.files import NOT_THERE, Confirm, FileStatus, UnusableFileError, always
from semigrid.data.storage.local import LocalFiles
from semigrid.data.storage.web import WebFiles, web_files

PATIENCE = "SEMIGRID_STORAGE_PATIENCE"

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def storage_patience() -> float:
    """Seconds that a run waits for storage that vanished: ``PATIENCE``, or two minutes."""
    text = os.environ.get(PATIENCE) or "120"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{PATIENCE}={text}: not a number of seconds, 0 or more")
    return seconds


def open_storage(uri: str | Path, patience: float | None = None) -> "Storage":
    """A folder by path or URI (``results``, ``s3://shop/experiments``); it need not exist.

    Args:
        patience: seconds to wait for a local folder that vanished. The folder counts as away while
            it is missing or empty, so make it and give it a file first. Buckets are always waited
            for, by default for ``storage_patience()`` seconds; web addresses only while a server
            says that it is busy, since lists of them contain dead ones: one that answered before,
            and now keeps silent, counts as gone.

    Raises:
        InputError: a URI that is not opened (see ``address``), or one with credentials in it other
            than a web address.
    """
    uri = str(uri)
    scheme = scheme_of(uri)
    if not scheme:
        root = local_path(uri).rstrip("/") or "/"
        return Storage(LocalFiles(None if patience is None else root), root, patience)
    place = uri.partition("?")[0]
    if scheme not in WEB and shown(place) != place:
        raise InputError(
            f"{uri}: credentials in a URI would be written into files and logs; leave them out and "
            f"{CREDENTIALS}"
        )
    seconds = storage_patience() if patience is None else patience
    try:
        files: BucketFiles = web_files(uri, seconds) if scheme in WEB else bucket_files(uri)
    except (ValueError, ImportError) as error:  # a missing package, or parts that make no sense
        needs = "; pip install 'semigrid[aws]'" if scheme in S3 else ""
        raise InputError(f"{uri}: not a URI that can be opened: {error}{needs}") from error
    return Storage(
        files,
        files.root.rstrip("/") or "/",
        None if scheme in WEB else seconds,
        partial(_refuse, uri) if scheme in READ_ONLY else always,
    )


def _refuse(uri: str) -> None:
    """Prevents every change at an address that is only read."""
    raise RefusedError(
        f"{uri}: nothing is written there; give a path on this machine, or s3://, gs:// or abfs://"
    )


@dataclass(frozen=True)
class Storage:
    """A folder on a disk or in a bucket; ``open_storage`` opens one by path or URI.

    Names are relative paths with ``/``, below the folder; the empty name is the folder itself.
    Readers see a write whole or not at all. Every method may raise ``RefusedError`` (a bucket
    refuses), ``FileNotFoundError``, and ``StorageGoneError`` when the storage has been away (its
    network, an unmounted or moved folder, a busy server) for ``patience`` seconds. Without patience
    the first error is raised. ``confirm`` is called right before each attempt at a change, which it
    may prevent by an exception.
    """

    files: LocalFiles | BucketFiles
    root: str
    patience: float | None = None
    confirm: Confirm = always

    @property
    def uri(self) -> str:
        return self.files.uri(self.root)

    def folder(self, *names: str) -> "Storage":
        """The storage of a folder in this one."""
        return replace(self, root=_joined(self.root, *names))

    def location(self, *names: str) -> str:
        """The path or URI of a file, for people and other programs."""
        return _joined(self.uri, *names)

    def local_path(self, name: str = "") -> Path | None:
        """The path of a file for other programs on this machine; None in a bucket."""
        return Path(self._path(name)) if isinstance(self.files, LocalFiles) else None

    def read(self, name: str = "", limit: int | None = None) -> bytes:
        """A file's content.

        With a limit in bytes, raises ``UnusableFileError`` for what is larger, or a pipe or device.
        """
        return self._do(self.files.read, self._path(name), limit)

    def read_with_version(self, limit: int | None = None) -> tuple[bytes, str]:
        """This file's content as ``read`` does, with its version where that comes along, or "".

        Only web servers tell both at once.
        """
        if isinstance(self.files, WebFiles):
            return self.files.read_with_version(self.root, limit)
        return self.read(limit=limit), ""

    def read_all(
        self, names: Iterable[str], limit: int | None = None
    ) -> dict[str, bytes | UnusableFileError]:
        """The contents of many files by name, without missing files.

        With a limit as in ``read``, the error stands for the content of a file that exceeds it.
        """

        def read(name: str) -> bytes | UnusableFileError | None:
            try:
                return self.read(name, limit)
            except FileNotFoundError:
                return None
            except UnusableFileError as error:
                return error

        names = list(names)
        with ThreadPoolExecutor(self.files.readers) as pool:
            contents = zip(names, pool.map(read, names), strict=True)
            return {name: content for name, content in contents if content is not None}

    def open(self, name: str = "", ahead: bool = False) -> BufferedReader:
        """Opens a file for reading; only the parts that are read are fetched from a bucket.

        With ``ahead``, a bucket is read several mebibytes at a time, for many small parts in a row.
        """
        return self._do(self.files.open, self._path(name), ahead, self._do)

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, making its folders; readers see the old content or the new."""
        self._do(self.files.write, self._path(name), content, self.confirm)

    def keep(self, name: str, kept: str) -> None:
        """Keeps a file's content under a second name, unchanged by later writes of the first.

        Does nothing on a disk without hard links.
        """
        self._do(self.files.keep, self._path(name), self._path(kept), self.confirm)

    def delete(self, name: str) -> None:
        """Removes a file or folder; does nothing if it is missing."""
        with suppress(*NOT_THERE):
            self._do(self.files.delete, self._path(name), self.confirm)

    def swap(self, name: str, old: bytes | None, new: bytes | None) -> bool:
        """Replaces a file if its content is still ``old``; None stands for no file.

        True if it was replaced and no other process can have replaced it at the same time. False if
        another process was faster or nothing can tell; read the file again after a while.
        """
        self.confirm()
        return self._do(self.files.swap, self._path(name), old, new)

    def size(self, name: str = "") -> int | None:
        """A file's size in bytes, any number for a folder, None if it is missing."""
        return None if (status := self._status(name)) is None else status.size

    def exists(self, name: str = "") -> bool:
        return self._status(name) is not None

    def is_folder(self) -> bool:
        """Whether this is a folder; in a bucket, whether there are objects below it."""
        return (status := self._status("")) is not None and status.is_folder

    def version(self, name: str = "") -> str:
        """A string that changes with each write of a file, empty where nothing can tell.

        Raises ``IsADirectoryError``.
        """
        status = self._do(self.files.status, self._path(name))
        if status.is_folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.location(name))
        return status.version

    def stamp(self, name: str) -> str | None:
        """A file's version, or None if it is missing or the storage is away."""
        with suppress(OSError):
            return self.version(name)
        return None

    def entries(self, folder: str = "") -> Mapping[str, FileStatus]:
        """The files and folders directly in a folder, by name, none if it is missing."""
        with suppress(*NOT_THERE):
            return self._do(self.files.entries, self._path(folder))
        return {}

    def names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names of the visible files directly in a folder, none if it is missing."""
        return sorted(
            name
            for name in self.sizes(folder)
            if name.endswith(suffix) and not name.startswith(".")
        )

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Sizes in bytes of the files directly in a folder, by name, from one listing."""
        return {n: entry.size for n, entry in self.entries(folder).items() if not entry.is_folder}

    def folders(self, folder: str = "") -> list[str]:
        """Sorted names of the folders directly in a folder, none if it is missing."""
        return sorted(name for name, entry in self.entries(folder).items() if entry.is_folder)

    def walk(self) -> dict[str, str | None]:
        """All files at any depth by name, sorted, with the reason for which one is not to be read.

        Links to files and folders are followed, but not in circles. Hidden folders, and those that
        cannot be opened, are in it themselves in place of their files. Empty if it is missing.
        """
        with suppress(*NOT_THERE):
            return dict(sorted(self._do(self.files.walk, self.root)))
        return {}

    def check_could_write(self) -> None:
        """Raises ``OSError`` when nothing can be written here, without writing anything.

        In a bucket it only checks that the bucket answers.
        """
        self._do(self.files.check_could_write, self.root)

    def check_writable(self) -> None:
        """Raises ``OSError`` when nothing can be written here."""
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"semigrid")
        self.delete(probe)

    def _path(self, name: str) -> str:
        # names may be those of a manifest or record from somebody else
        if name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"{self.uri}: {name!r} is no name of a file in this folder")
        return _joined(self.root, name)

    def _status(self, name: str) -> FileStatus | None:
        with suppress(*NOT_THERE):
            return self._do(self.files.status, self._path(name))
        return None

    def _do(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Does a piece of work, again and again while the storage is away."""
        if self.patience is None:
            return work(*args)
        waiting = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._is_away),
            # random, so that not all processes ask a server at once when it comes back
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=min(5, self.patience / 4)),
            stop=tenacity.stop_after_delay(self.patience),
            before_sleep=self._say_once,
        )
        try:
            done: T = waiting(self._look, work, *args)
            return done
        except tenacity.RetryError as failed:
            error = failed.last_attempt.exception()
            raise StorageGoneError(
                f"{self.files.home}: this storage has been away for {self.patience:g} seconds "
                f"({error}); bring it back, then run the same command again ({PATIENCE} sets how "
                "long to wait)"
            ) from error
        except Exception as error:  # fsspec's packages have no error in common
            if not isinstance(self.files, BucketFiles) or not is_foreign(error):
                raise
            said = without_secrets(f"{self.files.home}: {type(error).__name__}: {error}")
            raise OSError(said) from error

    def _look(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        with suppress(*self.files.doubtful):
            return work(*args)
        return work(*args)

    def _is_away(self, error: BaseException) -> bool:
        # ``confirm`` may have asked another storage, which was waited for or has refused
        known = isinstance(error, StorageGoneError | RefusedError)
        return not known and self.files.is_away(error)

    def _say_once(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            said = visible(without_secrets(str(state.outcome.exception())))
            logging.getLogger(__name__).warning(
                f"{self.files.home} is away ({said}); waiting for it, up to {self.patience:g} "
                "seconds"
            )


def _joined(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/") if any(names) else folder, *filter(None, names)])
