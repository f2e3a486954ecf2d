"""A dataset's counts, shares and slices, and contact sheets to look at."""

import io
from collections import Counter
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from semigrid.data.schema import LABELED_SPLITS, POOL, Dataset
from semigrid.data.views.render import decode

THUMBNAIL, COLUMNS_OF_SHEET = 96, 8


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts for people and programs: splits, images and shares by class, slices by value."""
    manifest = dataset.manifest
    train = sum(manifest.counts["train"].values())
    return {
        "name": manifest.name,
        "license": manifest.license,
        "source": manifest.source,
        "fingerprint": manifest.fingerprint,
        "splits": {
            **{split: sum(counts.values()) for split, counts in manifest.counts.items()},
            POOL: manifest.pool,
        },
        "pool_unit": manifest.pool_unit,
        "classes": [
            {
                "class": name,
                **{split: counts[name] for split, counts in manifest.counts.items()},
                "train_share": manifest.counts["train"][name] / train,
            }
            for name in manifest.classes
        ],
        "slices": {name: _slice_counts(dataset, name) for name in manifest.slices},
    }


def _slice_counts(dataset: Dataset, name: str) -> dict[str, dict[str, int]]:
    """Images by value of a slice column and split."""
    counts: dict[str, Counter[str]] = {}
    for split in (*LABELED_SPLITS, POOL):
        values = dataset.column(split, name)
        for entry in pc.value_counts(values).to_pylist():
            value = "—" if entry["values"] is None else entry["values"]
            counts.setdefault(value, Counter())[split] += entry["counts"]
    return {value: dict(by_split) for value, by_split in sorted(counts.items())}


def contact_sheet(dataset: Dataset, label: int, images: int = 64) -> bytes:
    """The first training images of a class in stored order, as one PNG."""
    rows = np.flatnonzero(dataset.train_labels == label)[:images]
    table = dataset.read("train", rows)
    height = -(-len(table) // COLUMNS_OF_SHEET)
    sheet = Image.new("RGB", (COLUMNS_OF_SHEET * THUMBNAIL, height * THUMBNAIL), "white")
    for place, (image_id, content) in enumerate(zip(table.ids, table.images, strict=True)):
        image = decode(content, image_id)
        image.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
        row, column = divmod(place, COLUMNS_OF_SHEET)
        sheet.paste(image, (column * THUMBNAIL + 2, row * THUMBNAIL + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
