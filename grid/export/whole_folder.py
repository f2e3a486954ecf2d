"""A local folder that is written whole or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage


def check_destination(destination: str, names: Collection[str], overwrite: bool) -> Path:
    """The folder to write. Raises ``InputError`` where that would lose anything.

    With ``overwrite``, a folder with nothing but these names in it may be replaced.
    """
    place = open_storage(destination)
    if (local := place.local_path()) is None:
        raise InputError(f"{destination}: give a local folder; copy it to where it is to go")
    path = local.resolve()
    if not path.exists():
        return path
    if not path.is_dir():
        raise InputError(f"{destination}: this is a file; give a folder")
    there = sorted(file.name for file in path.iterdir())
    if there and not overwrite:
        raise InputError(
            f"{destination}: this folder is not empty; give another, or --overwrite to replace an "
            "earlier export"
        )
    others = [name for name in there if name not in names]
    if others:
        more = ", …" if len(others) > 3 else ""
        raise InputError(
            f"{destination}: --overwrite replaces an earlier export, and there is more in this "
            f"folder ({', '.join(others[:3])}{more}); give another, or move that away"
        )
    return path


@contextlib.contextmanager
def whole_or_not(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place if all goes well, and else is removed."""
    made = [parent for parent in target.parents if not parent.exists()]
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        try:
            beside.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{target}: cannot be written: {error}") from error
        yield beside
        for file in beside.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())  # else a power cut may keep the name and lose the bytes
        _take_place(beside, target)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise


def _take_place(beside: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(beside, target)
        return
    old = beside.with_suffix(".old")
    os.rename(target, old)
    try:
        os.rename(beside, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
