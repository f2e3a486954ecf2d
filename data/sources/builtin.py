"""Datasets that need no download: ``builtin://digits``."""

import os
import shutil
import uuid
from pathlib import Path

from data.build import write_dataset
from data.errors import InputError
from data.schema import MANIFEST, Dataset, open_dataset
from data.sources import digits

BUILTIN = {"digits": digits}


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
    cache = Path(os.environ.get("SEMIGRID_CACHE") or Path.home() / ".cache" / "semigrid")
    folder = cache / f"{name}-v{source.VERSION}"
    if not (folder / MANIFEST).exists():
        # built aside and renamed: another process may be building the same
        aside = cache / f".{name}-{uuid.uuid4().hex}"
        write_dataset(str(aside), source.rows(), **source.DESCRIPTION)
        try:
            os.rename(aside, folder)
        except OSError:
            if (folder / MANIFEST).exists():  # the other process was first, with the same content
                shutil.rmtree(aside)
            else:  # what lies there has lost its manifest
                shutil.rmtree(folder)
                os.rename(aside, folder)
    return open_dataset(str(folder))
