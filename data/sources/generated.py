"""The generated patterns as items of a source, and as the raw material that a user would have."""

import csv
import io
import posixpath
import shlex
from collections.abc import Callable, Iterable, Sequence

from semigrid.data.crowd.votes import COLUMNS
from semigrid.data.errors import InputError
from semigrid.data.sources.crowd import answers_of, gold_of
from semigrid.data.sources.drawing import draw
from semigrid.data.sources.files import Drawn, Item
from semigrid.data.sources.patterns import (
    BLOCK,
    LICENSE,
    MARKETPLACES,
    VERSION,
    Patterns,
    block,
    image_id,
)
from semigrid.data.storage import open_storage

ABOUT = """\
Everything here is generated, the images and the crowd answers alike: nothing was photographed, and
nobody was asked. {uri} (version {version}) is the same.

images/       {images:,} JPEGs of product patterns, {size} pixels a side
images.csv    for each image: id, file, marketplace, and the product that it shows
answers.csv   what three invented workers say of each of {answered:,} images: task, worker, label
gold.csv      the true labels of {gold:,} of these images, which all workers were tested on

To make a dataset of it:

{command}

Licence: {license}
"""


def pattern_items(patterns: Patterns) -> list[Item]:
    """All images, drawn when they are read; grouped by product, and without labels."""
    slices = [{"marketplace": name} for name in MARKETPLACES]
    items = []
    for first in range(0, patterns.images, BLOCK):
        shown = block(patterns.seed, first // BLOCK)
        numbers = range(first, min(first + BLOCK, patterns.images))
        for number, product, market in zip(
            numbers, shown.products.tolist(), shown.marketplaces.tolist(), strict=False
        ):
            items.append(
                Item(
                    image_id(number),
                    patterns.uri,
                    group=f"product-{product:07d}",
                    slices=slices[market],
                    inside=Drawn(patterns.seed, number, patterns.size),
                )
            )
    return items


def write_raw(
    uri: str,
    patterns: Patterns,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Writes images and tables into an empty folder; returns the command that builds a dataset.

    The dataset is that of ``builtin://patterns`` with the same parameters: the same labels, splits
    and pool in the same order.

    Args:
        progress: is told how many of the images have been written.

    Raises:
        InputError: something lies there already.
    """
    storage = open_storage(uri)
    if storage.exists() and storage.entries():
        raise InputError(f"{uri}: there is something here already; give a new or an empty folder")
    items = pattern_items(patterns)
    rows = []
    for done, item in enumerate(items, 1):
        file = f"images/{item.image_id}.jpg"
        storage.write(file, draw(patterns.seed, done - 1, patterns.size))
        rows.append((item.image_id, file, item.slices["marketplace"], item.group))
        progress(done, len(items))
    command = _command(storage.uri, patterns)
    answers = answers_of(patterns)
    tables: dict[str, tuple[Sequence[str], Iterable[Iterable[object]]]] = {
        "images.csv": (("id", "image", "marketplace", "product"), rows),
        "answers.csv": (COLUMNS, answers.itertuples(index=False)),
        "gold.csv": (("task", "label"), gold_of(patterns).items()),
    }
    for name, (header, content) in tables.items():
        storage.write(name, _csv(header, content))
    about = ABOUT.format(
        uri=patterns.uri,
        version=VERSION,
        images=patterns.images,
        size=patterns.size,
        answered=patterns.answered,
        gold=patterns.gold,
        command=command,
        license=LICENSE,
    )
    storage.write("README.txt", about.encode())
    return command


def _csv(header: Sequence[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _command(uri: str, patterns: Patterns) -> str:
    options = {
        "--answers": posixpath.join(uri, "answers.csv"),
        "--gold": posixpath.join(uri, "gold.csv"),
        "--id-column": "id",
        "--group-column": "product",
        "--slice": "marketplace",
        "--license": LICENSE,
    }
    if patterns.pool_unit is not None:
        options["--pool-unit"] = str(patterns.pool_unit)
    words = [word for option in options.items() for word in option]
    source, to = posixpath.join(uri, "images.csv"), f"{uri.rstrip('/')}-dataset"
    return shlex.join(["semigrid", "data", "build", source, to, *words])
