"""Writes the generated patterns as the files that a user would have: images and tables."""

import posixpath
from collections.abc import Callable

import pandas as pd

from semigrid.data.escape import command
from semigrid.data.sources.patterns.drawing import pattern_items
from semigrid.data.sources.patterns.spec import LICENSE, VERSION, Patterns, answers_of, gold_of
from semigrid.data.storage import Storage
from semigrid.data.storage.in_use import new_folder

ABOUT = """\
Everything here is generated, the images and the crowd answers alike: nothing was photographed, and
nobody was asked. {patterns.uri} (version {version}) is the same.

images/       {patterns.images:,} JPEGs of product patterns, {patterns.size} pixels a side
images.csv    id, file, marketplace and product of each image
answers.csv   the answers of three invented workers to each of {patterns.answered:,} images
gold.csv      the true labels of {gold:,} of these images, which test all workers

To build a dataset from these files:

{command}

Licence: {license}
"""


def write_raw(
    uri: str,
    patterns: Patterns,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Writes images and tables into an empty folder; returns the command that builds a dataset.

    The dataset has the labels, splits and pool of ``builtin://patterns`` with these parameters, in
    the same order. ``progress`` gets the number of images written and the number of all images.

    Raises:
        InputError: the folder is not empty, or another process is writing into it.
    """
    with new_folder(uri, "DEST") as storage:
        return _write(storage, patterns, progress)


def _write(storage: Storage, patterns: Patterns, progress: Callable[[int, int], None]) -> str:
    items, gold = pattern_items(patterns), gold_of(patterns)
    rows = []
    for done, item in enumerate(items, 1):
        file = f"images/{item.image_id}.jpg"
        storage.write(file, item.read())
        rows.append((item.image_id, file, item.slices["marketplace"], item.group))
        progress(done, len(items))
    tables = {
        "images.csv": pd.DataFrame(rows, columns=["id", "image", "marketplace", "product"]),
        "answers.csv": answers_of(patterns),
        "gold.csv": pd.DataFrame(gold.items(), columns=["task", "label"]),
    }
    for name, table in tables.items():
        storage.write(name, table.to_csv(index=False, lineterminator="\n").encode())
    images, answers, tests = (posixpath.join(storage.uri, name) for name in tables)
    words = ["semigrid", "data", "build", images, f"{storage.uri.rstrip('/')}-dataset"]
    words += ["--answers", answers, "--gold", tests, "--id-column", "id"]
    words += ["--group-column", "product", "--slice", "marketplace", "--license", LICENSE]
    if patterns.pool_unit is not None:
        words += ["--pool-unit", str(patterns.pool_unit)]
    line = command(words)
    about = ABOUT.format(
        patterns=patterns, version=VERSION, gold=len(gold), command=line, license=LICENSE
    )
    storage.write("README.txt", about.encode())
    return line
