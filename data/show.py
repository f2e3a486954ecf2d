"""A dataset's counts, shares and slices, and contact sheets to look at."""

import io
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from semigrid.data.precision import classes_without_val, precision_of
from semigrid.data.schema import LABELED_SPLITS, POOL, Dataset
from semigrid.data.views.render import BrokenImageError, decode

THUMBNAIL, COLUMNS_OF_SHEET, MOST_ON_SHEET = 96, 8, 64


def describe(dataset: Dataset) -> dict[str, Any]:
    """Facts for people and programs: splits, images and shares by class, slices by value."""
    manifest, splits = dataset.manifest, [*LABELED_SPLITS, POOL]
    classes = pd.DataFrame(manifest.counts).rename_axis("class").reset_index()
    classes["train_share"] = classes["train"] / classes["train"].sum()
    slices = {}
    for name in manifest.slices:
        values = {
            split: dataset.column(split, name, check=False).to_pandas().fillna("—")
            for split in splits
        }
        counts = pd.DataFrame({split: of.value_counts() for split, of in values.items()})
        slices[name] = {
            value: {split: int(count) for split, count in row.items() if count > 0}
            for value, row in counts.sort_index().iterrows()
        }
    return {
        **manifest.model_dump(include={"name", "license", "source", "fingerprint", "pool_unit"}),
        "test": precision_of(manifest.counts),
        "without_val": classes_without_val(manifest.counts),
        "splits": {split: dataset.rows_in(split) for split in splits},
        "classes": classes.to_dict("records"),
        "slices": slices,
    }


def contact_sheet(dataset: Dataset, label: int) -> bytes:
    """The first training images of a class in stored order, as one PNG."""
    rows = np.flatnonzero(dataset.train_labels == label)[:MOST_ON_SHEET]
    table = dataset.read("train", rows)
    height = -(-len(table) // COLUMNS_OF_SHEET)
    sheet = Image.new("RGB", (COLUMNS_OF_SHEET * THUMBNAIL, height * THUMBNAIL), "white")
    for place, (image_id, content) in enumerate(zip(table.ids, table.images, strict=True)):
        try:
            image = decode(content, image_id)
        except BrokenImageError:  # data check names it
            continue
        image.thumbnail((THUMBNAIL - 4, THUMBNAIL - 4))
        row, column = divmod(place, COLUMNS_OF_SHEET)
        sheet.paste(image, (column * THUMBNAIL + 2, row * THUMBNAIL + 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
