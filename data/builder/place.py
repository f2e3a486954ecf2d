"""The folder that a build writes to: a new or empty one, or that of an unfinished build.

A build lists its files before it writes any of them, so it tells them from the user's own. On a
disk a second build is refused. In a bucket it takes over, and the first one ends before its next
write, so that what lies there in the end is one whole dataset.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, ValidationError

from semigrid.data.builder.write import SHARD_NAME
from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.in_use import in_use, remove_unfinished
from semigrid.data.this_user import this_user

REPORT = "report.json"
BUILDING = ".building"
CLAIM = f"{BUILDING}/build.json"
# files of the user's that a refusal names
SHOWN = 5


class Claim(BaseModel):
    """Who builds in a folder, and which files in it are the build's."""

    model_config = ConfigDict(extra="forbid")
    token: str
    builder: str
    files: tuple[str, ...] = ()


class Place:
    """A folder with a build at work; ``building_in`` makes one.

    Every write and deletion through ``storage`` raises ``InputError`` if another build has taken
    over.
    """

    def __init__(self, storage: Storage, files: Iterable[str]):
        self._plain = storage
        self._claim = Claim(token=uuid.uuid4().hex, builder=_this_process(), files=tuple(files))
        self.storage = replace(storage, confirm=self.confirm)
        self._write_claim()

    def confirm(self) -> None:
        """Raises ``InputError`` if this build is no longer the one that works here."""
        now = _claim_in(self._plain)
        if now is None or now.token != self._claim.token:
            what = "ended" if now is None else f"began ({now.builder})"
            raise InputError(
                f"{self._plain.uri}: another build {what} here, so this one stops; give each build "
                "a folder of its own"
            )

    def claim(self, files: Iterable[str]) -> None:
        """Prepares to write these files, and removes what an unfinished build left of others.

        Raises ``InputError`` if one of them is there and not from a build.
        """
        files, mine = set(files), set(self._claim.files)
        if taken := sorted({*files, MANIFEST} & {*self._plain.entries()} - mine):
            raise _refusal(self._plain, taken)
        self._claim = self._claim.model_copy(update={"files": tuple(sorted(files | mine))})
        self.confirm()
        self._write_claim()
        for name in sorted(mine):
            self.storage.delete(name)

    def finish(self) -> None:
        """Removes all but the dataset."""
        self.storage.delete(BUILDING)

    def _write_claim(self) -> None:
        self._plain.write(CLAIM, (self._claim.model_dump_json(indent=1) + "\n").encode())


@contextmanager
def building_in(uri: str) -> Iterator[Place]:
    """A place for a build, until the block ends.

    Raises ``InputError`` where there is a dataset, or another file that no unfinished build left,
    and where another build is at work on a disk.
    """
    storage = open_storage(uri)
    with in_use(storage, "DEST") as alone:
        place = Place(storage, _files_of_builds(storage))
        if alone:
            chunks = [f"{BUILDING}/{name}" for name in storage.folders(BUILDING)]
            remove_unfinished(place.storage, "", BUILDING, *chunks)
        yield place


def check_place(uri: str) -> None:
    """Raises ``InputError`` where ``building_in`` would, but for other builds; writes nothing."""
    _files_of_builds(open_storage(uri))


def _files_of_builds(storage: Storage) -> tuple[str, ...]:
    """The files in a folder that an unfinished build wrote. Raises ``InputError`` for others."""
    if storage.exists(MANIFEST):
        raise InputError(f"{storage.uri}: there is a dataset here already; give another folder")
    if storage.exists() and not storage.is_folder():
        raise InputError(f"{storage.uri}: this is a file; give a new or an empty folder")
    claim = _claim_in(storage)
    files = () if claim is None else claim.files
    there = storage.entries()
    others = [name for name in sorted(there) if not name.startswith(".") and name not in files]
    if BUILDING in there and claim is None:
        left = storage.entries(BUILDING)
        if not there[BUILDING].is_folder or any(not name.startswith(".") for name in left):
            others.append(BUILDING)
    if others:
        raise _refusal(storage, others)
    return files


def _claim_in(storage: Storage) -> Claim | None:
    with suppress(FileNotFoundError, NotADirectoryError, ValidationError):
        claim = Claim.model_validate_json(storage.read(CLAIM))
        if all(name == REPORT or SHARD_NAME.fullmatch(name) for name in claim.files):
            return claim
    return None


def _refusal(storage: Storage, names: list[str]) -> InputError:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return InputError(
        f"{storage.uri}: this folder has files that are not from an unfinished build: "
        f"{', '.join(names[:SHOWN])}{more}; give a new or an empty folder"
    )


def _this_process() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f"{this_user()} on {socket.gethostname()}, process {os.getpid()}, since {since}"
