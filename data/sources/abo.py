"""Amazon Berkeley Objects: product photographs, labelled by an attribute of their listings."""

import gzip
import io
import json
import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.errors import InputError
from semigrid.data.sources.items import Item
from semigrid.data.storage import Storage, open_storage

LISTINGS, IMAGES = "listings/metadata", "images/metadata/images.csv.gz"


def abo_items(
    root: str,
    product_type: str,
    attribute: str = "pattern",
    slice: str | None = "country",
    all_images: bool = False,
) -> list[Item]:
    """Lists the photographs of a product type, at most 256 pixels a side.

    A photograph has no label when its listings lack the attribute or disagree about it. Products
    may share photographs and have several listings, so all products that share photographs form
    one group.

    Args:
        root: the folder with ``listings`` and ``images``.
        attribute: the attribute of the listings that is the label; its English values are used,
            in lower case.
        slice: a plain attribute of the listings to report results by.
        all_images: includes the other images of a listing, which may not show the attribute.

    Raises:
        InputError: the folder is missing or has no image of the type.
    """
    storage = open_storage(root)
    paths = _paths(storage)
    labels: dict[str, set[str]] = {}
    slices: dict[str, set[str]] = {}
    types: Counter[str] = Counter()
    joined = DisjointSet()  # of products, and of photographs as tuples
    for listing in _listings(storage):
        kind = _plain(listing.get("product_type"))
        types[kind] += 1
        if kind != product_type:
            continue
        product = str(listing["item_id"])
        joined.add(product)
        shown = [listing.get("main_image_id")]
        shown += listing.get("other_image_id") or [] if all_images else []
        for image_id in [image_id for image_id in shown if image_id in paths]:
            labels.setdefault(image_id, set()).update(_english(listing.get(attribute)))
            of_image = slices.setdefault(image_id, set())
            if slice is not None and listing.get(slice):
                of_image.add(_plain(listing[slice]))
            joined.add((image_id,))
            joined.merge(product, (image_id,))
    if not labels:
        common = ", ".join(f"{name} ({count})" for name, count in types.most_common(5))
        raise InputError(f"{root}: no image of type {product_type!r}; the most common are {common}")
    group_of: dict[str | tuple[str], str] = {}
    for group in joined.subsets():
        group_of |= dict.fromkeys(group, min(one for one in group if isinstance(one, str)))
    return [
        Item(
            image_id,
            posixpath.join(storage.uri, "images/small", paths[image_id]),
            names.pop() if len(names) == 1 else None,
            group_of[(image_id,)],
            {} if slice is None else {slice: min(slices[image_id], default="")},
        )
        for image_id, names in sorted(labels.items())
    ]


def _paths(storage: Storage) -> dict[str, str]:
    try:
        content = gzip.decompress(storage.read(IMAGES))
    except (OSError, EOFError) as error:
        raise InputError(f"{storage.uri}: {IMAGES} cannot be read: {error}") from error
    table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    return dict(zip(table["image_id"], table["path"], strict=True))


def _listings(storage: Storage) -> Iterator[dict[str, Any]]:
    names = storage.names(LISTINGS, ".json.gz")
    if not names:
        raise InputError(f"{storage.uri}: {LISTINGS}/listings_*.json.gz is missing")
    for name in names:
        with (
            storage.open(f"{LISTINGS}/{name}", ahead=True) as packed,
            gzip.open(packed, "rt", encoding="utf-8") as text,
        ):
            for number, line in enumerate(text, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise InputError(f"{storage.uri}: {name}: line {number} is not JSON") from error


def _plain(value: Any) -> str:
    """A plain attribute: a string, or the first of a list of ``{"value": …}``."""
    if isinstance(value, list):
        value = value[0].get("value", "") if value else ""
    return str(value or "")


def _english(value: Any) -> set[str]:
    """The English values of a localised attribute."""
    return {
        str(entry["value"]).strip().lower()
        for entry in value or []
        if str(entry.get("language_tag", "")).startswith("en") and entry.get("value")
    }
