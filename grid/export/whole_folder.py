"""A local folder that is written whole or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage


def check_destination(destination: str, replaced: Collection[str]) -> Path:
    """The folder to write. Raises ``InputError`` where writing it would lose anything.

    An earlier export, a folder that holds nothing but files of the names ``replaced``, may be lost.
    """
    place = open_storage(destination)
    if (local := place.local_path()) is None:
        raise InputError(f"{destination}: give a local folder; copy it to where it is to go")
    path = local.resolve()
    if path.exists():
        _check_lost(path, path, replaced)
    return path


def _check_lost(folder: Path, target: Path, replaced: Collection[str]) -> None:
    if not folder.is_dir():
        raise InputError(f"{target}: this is a file; give a folder")
    there = sorted(file.name for file in folder.iterdir())
    if there and not replaced:
        raise InputError(
            f"{target}: this folder is not empty; give another, or --overwrite to replace an "
            "earlier export"
        )
    others = [name for name in there if name not in replaced or (folder / name).is_dir()]
    if others:
        more = ", …" if len(others) > 3 else ""
        raise InputError(
            f"{target}: --overwrite replaces an earlier export, and there is more in this "
            f"folder ({', '.join(others[:3])}{more}); give another, or move that away"
        )


@contextlib.contextmanager
def whole_or_not(target: Path, replaced: Collection[str]) -> Iterator[Path]:
    """A temporary folder that replaces the target at the end, or is removed after an exception.

    An earlier export keeps its place until the new one has it. Raises ``InputError`` as
    ``check_destination`` does, for what was put there meanwhile.
    """
    there = next(parent for parent in target.parents if parent.exists())
    temporary = there / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {error}") from error
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut may keep the name and lose the bytes
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # empty, or an earlier export
            target.rename(old)
            _check_lost(old, target, replaced)
        temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
