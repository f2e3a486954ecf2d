"""Datasets that need no download: ``builtin://digits``."""

import os
import shutil
import uuid
from pathlib import Path
from types import ModuleType

from data.build import write_dataset
from data.errors import InputError
from data.schema import MANIFEST, Dataset, open_dataset
from data.sources import digits
from data.storage import cache_folder

BUILTIN: dict[str, ModuleType] = {"digits": digits}


def open_builtin(uri: str) -> Dataset:
    """Opens a built-in dataset, writing it once into this machine's cache.

    The cache is ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``; the content is the same on every
    machine, so the nodes of a cluster need no common folder for it.
    """
    name = uri.removeprefix("builtin://")
    if name not in BUILTIN:
        allowed = ", ".join(f"builtin://{known}" for known in BUILTIN)
        raise InputError(f"{uri}: no such built-in dataset; there is {allowed}")
    source = BUILTIN[name]
    folder = cache_folder() / f"{name}-v{source.VERSION}"
    if not (folder / MANIFEST).exists():
        try:
            _build(source, folder)
        except OSError as error:
            raise InputError(
                f"{uri}: its cache {folder} cannot be written: {error}; set SEMIGRID_CACHE to a "
                "folder that can"
            ) from error
    return open_dataset(str(folder))


def _build(source: ModuleType, folder: Path) -> None:
    """Writes the dataset aside and renames it: another process may be building the same."""
    aside = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    write_dataset(str(aside), source.rows(), **source.DESCRIPTION)
    try:
        os.rename(aside, folder)
    except OSError:
        if not (folder / MANIFEST).exists():  # what lies there has lost its manifest
            shutil.rmtree(folder)
            os.rename(aside, folder)
        else:  # the other process was first, with the same content
            shutil.rmtree(aside)
