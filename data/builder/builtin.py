"""Datasets that need no download: ``builtin://digits`` and ``builtin://patterns``."""

import os
import shlex
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semigrid.data.builder import digits
from semigrid.data.builder.clean import CLEAN_VERSION
from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest
from semigrid.data.builder.write import write_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST
from semigrid.data.sources.patterns.spec import VERSION, parse_patterns
from semigrid.data.storage import cache_folder

# images of builtin://patterns that are made while somebody waits for a dataset to open
MOST_ON_OPENING = 50_000

# the name of a folder in the cache, and what writes the dataset to a place
Builtin = tuple[str, Callable[[str], Any]]


def builtin_folder(uri: str) -> str:
    """The folder of a built-in dataset in this machine's cache, written the first time.

    The cache is ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``; the content is the same on every
    machine, so the nodes of a cluster need no common folder for it.

    Raises ``InputError`` for a name or parameters that there are not, for too many images, and
    where the cache cannot be written.
    """
    name = uri.removeprefix("builtin://").partition("?")[0]
    if name not in BUILTIN:
        allowed = " and ".join(f"builtin://{known}" for known in BUILTIN)
        raise InputError(f"{uri}: no such built-in dataset; there is {allowed}")
    called, write = BUILTIN[name](uri)
    folder = cache_folder() / called
    if not (folder / MANIFEST).exists():
        try:
            _build(write, folder)
        except OSError as error:
            raise InputError(
                f"{uri}: its cache {folder} cannot be written: {error}; set SEMIGRID_CACHE to a "
                "folder that can"
            ) from error
    return str(folder)


def _digits(uri: str) -> Builtin:
    if "?" in uri:
        raise InputError(f"{uri}: the digits have no parameters; they are builtin://digits")
    return (
        f"digits-v{digits.VERSION}",
        lambda where: write_dataset(where, digits.rows(), **digits.DESCRIPTION),
    )


def _patterns(uri: str) -> Builtin:
    made = parse_patterns(uri)
    if made.images > MOST_ON_OPENING:
        raise InputError(
            f"{uri}: {made.images:,} images are too many to draw on opening, {MOST_ON_OPENING:,} "
            f"at most; build them once with: semigrid data build {shlex.quote(uri)} DEST "
            "--processes N, and give DEST"
        )

    def write(where: str) -> None:
        request = BuildRequest(source=made.uri, name="patterns")
        gathered = gather(request)
        build_dataset(
            where,
            gathered.items,
            request.settings(where),
            votes=gathered.votes,
            audit=gathered.audit,
        )

    version = f"v{VERSION}.{CLEAN_VERSION}"
    parameters = f"{made.images}-{made.answered}-{made.size}-{made.seed}"
    return f"patterns-{version}-{parameters}", write


BUILTIN: dict[str, Callable[[str], Builtin]] = {"digits": _digits, "patterns": _patterns}


def _build(write: Callable[[str], Any], folder: Path) -> None:
    """Writes the dataset aside and renames it: another process may be building the same."""
    aside = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    write(str(aside))
    try:
        os.rename(aside, folder)
    except OSError:
        if not (folder / MANIFEST).exists():  # what lies there has lost its manifest
            shutil.rmtree(folder)
            os.rename(aside, folder)
        else:  # the other process was first, with the same content
            shutil.rmtree(aside)
