"""Datasets that need no download: ``builtin://digits`` and ``builtin://patterns``.

The digits are the 1,797 real handwritten ones that scikit-learn ships (UCI, 8×8 pixels, 17 grey
levels). The labels of two thirds are hidden to make the pool. The others are a small labelled set,
like the sets for which people ask how many labels they need.
"""

import io
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semigrid.data.builder.clean import CLEAN_VERSION
from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import BuildRequest
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.errors import InputError
from semigrid.data.escape import command
from semigrid.data.schema import MANIFEST
from semigrid.data.sources.patterns.spec import VERSION, parse_patterns
from semigrid.data.splits import SPLIT_VERSION, seeded_order, split_labeled
from semigrid.data.storage import cache_folder
from semigrid.data.storage.locks import locked

# largest number of images of builtin://patterns that opening a dataset draws
MOST_ON_OPENING = 50_000

DIGITS_VERSION = 1
DIGITS: dict[str, Any] = {
    "name": "digits",
    "classes": [str(digit) for digit in range(10)],
    "license": "CC BY 4.0",
    "source": "Optical Recognition of Handwritten Digits, UCI, as shipped by scikit-learn",
    "order_seed": 0,
    "pool_unit": 300,  # the pool of 1,200 is 400 %
    "rows_per_group": 64,
}


def builtin_folder(uri: str) -> str:
    """The folder of a built-in dataset in this machine's cache, written the first time.

    The cache is ``$SEMIGRID_CACHE`` or ``~/.cache/semigrid``. Every machine writes the same data,
    so the nodes of a cluster need no shared folder for it.

    Raises ``InputError`` for an unknown name or parameter, for too many images, and when the cache
    cannot be written.
    """
    name, _, parameters = uri.removeprefix("builtin://").partition("?")
    if name == "patterns":
        made = parse_patterns(uri)
        if made.images > MOST_ON_OPENING:
            raise InputError(
                f"{uri}: {made.images:,} images are too many to draw on opening, "
                f"{MOST_ON_OPENING:,} at most; build them once with: semigrid data build "
                f"{command([uri])} DEST --processes N, and give DEST"
            )
        version = f"{VERSION}.{CLEAN_VERSION}.{SPLIT_VERSION}"
        folder = f"v{version}-{made.images}-{made.answered}-{made.size}-{made.seed}"
    elif name != "digits":
        raise InputError(
            f"{uri}: no such built-in dataset; there are builtin://digits and builtin://patterns"
        )
    elif parameters:
        raise InputError(f"{uri}: the digits have no parameters; they are builtin://digits")
    else:
        folder = f"v{DIGITS_VERSION}"
    path = cache_folder() / f"{name}-{folder}"
    try:
        if not (path / MANIFEST).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f".{path.name}.lock")) as alone:
                if not (path / MANIFEST).exists():  # no other process wrote it meanwhile
                    _write(uri, path, alone)
    except OSError as error:
        raise InputError(
            f"{uri}: its cache {path} cannot be written: {error}; set SEMIGRID_CACHE to a "
            "writable folder"
        ) from error
    return str(path)


def _write(uri: str, folder: Path, alone: bool) -> None:
    """Writes a dataset beside ``folder``, then renames it, so that it is there whole or not at all.

    ``alone`` says whether other processes are kept out.
    """
    aside = folder.with_name(f".{folder.name}")
    if alone:
        shutil.rmtree(aside, ignore_errors=True)  # its process was killed
    if not alone or aside.exists():  # another process's, or another user's
        aside = folder.with_name(f"{aside.name}-{uuid.uuid4().hex}")
    try:
        if uri == "builtin://digits":
            write_dataset(str(aside), digits(), **DIGITS)
        else:
            request = BuildRequest(source=parse_patterns(uri).uri, name="patterns")
            items, audit = gather(request)
            build_dataset(str(aside), items, request, audit=audit)
        if not (folder / MANIFEST).exists():
            if folder.exists():  # a dataset that has lost its manifest
                shutil.rmtree(folder)
            try:
                os.rename(aside, folder)
            except OSError:  # without locks, another process may be faster
                if not (folder / MANIFEST).exists():
                    raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def digits() -> list[StoredImage]:
    """All digits: 597 labelled ones in three splits, and 1,200 in the pool."""
    from sklearn.datasets import load_digits  # here, since it takes 2 s to import

    source = load_digits()
    ids = [f"digit-{i:04d}" for i in range(len(source.target))]
    labeled = seeded_order(ids, 0)[:597]
    splits = split_labeled(
        [int(source.target[i]) for i in labeled],
        [ids[i] for i in labeled],
        num_classes=10,
        seed=0,
        # the paper's 75/15/10 would give 60 test images, too few to tell two models apart
        val_share=0.25,
        test_share=0.34,
    )
    split_of = dict(zip(labeled, splits, strict=True))
    rows = []
    for i, name in enumerate(ids):
        label = int(source.target[i]) if i in split_of else None
        image, buffer = (source.images[i] * 255 / 16).astype(np.uint8), io.BytesIO()
        # stored uncompressed: the bytes do not depend on the machine's zlib
        Image.fromarray(image).save(buffer, "png", compress_level=0)
        rows.append(StoredImage(name, buffer.getvalue(), label, split_of.get(i, "pool"), name))
    return rows
