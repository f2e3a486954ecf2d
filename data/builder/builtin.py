"""Datasets that need no download: ``builtin://digits`` and ``builtin://patterns``."""

import os
import shlex
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

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

# largest number of images of builtin://patterns that opening a dataset draws
MOST_ON_OPENING = 50_000


def builtin_folder(uri: str) -> str:
    """The folder of a built-in dataset in this machine's cache, written the first time.

    The cache is ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``. Every machine writes the same data,
    so the nodes of a cluster need no shared folder for it.

    Raises ``InputError`` for an unknown name or parameter, for too many images, and when the cache
    cannot be written.
    """
    name, _, parameters = uri.removeprefix("builtin://").partition("?")
    if name == "patterns":
        folder, write = _patterns(uri)
    elif name != "digits":
        raise InputError(
            f"{uri}: no such built-in dataset; there are builtin://digits and builtin://patterns"
        )
    elif parameters:
        raise InputError(f"{uri}: the digits have no parameters; they are builtin://digits")
    else:
        folder, write = f"digits-v{digits.VERSION}", _write_digits
    path = cache_folder() / folder
    try:
        if not (path / MANIFEST).exists():
            _write_whole(write, path)
    except OSError as error:
        raise InputError(
            f"{uri}: its cache {path} cannot be written: {error}; set SEMIGRID_CACHE to a "
            "writable folder"
        ) from error
    return str(path)


def _write_digits(where: str) -> None:
    write_dataset(where, digits.rows(), **digits.DESCRIPTION)


def _patterns(uri: str) -> tuple[str, Callable[[str], None]]:
    """The name of the folder in the cache, and a function that writes the dataset to a folder."""
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
        settings, votes = request.settings(where), gathered.votes
        build_dataset(where, gathered.items, settings, votes=votes, audit=gathered.audit)

    version = f"v{VERSION}.{CLEAN_VERSION}"
    return f"patterns-{version}-{made.images}-{made.answered}-{made.size}-{made.seed}", write


def _write_whole(write: Callable[[str], None], folder: Path) -> None:
    """Writes the dataset beside ``folder``, then renames it: others may be building it too."""
    aside = folder.parent / f".{folder.name}-{uuid.uuid4().hex}"
    write(str(aside))
    try:
        os.rename(aside, folder)
    except OSError:
        if (folder / MANIFEST).exists():  # the other process was first, with the same content
            shutil.rmtree(aside)
        else:  # a dataset that has lost its manifest
            shutil.rmtree(folder)
            os.rename(aside, folder)
