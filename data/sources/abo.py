"""Amazon Berkeley Objects: product photographs, labelled by an attribute of their listings."""

import gzip
import posixpath
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, RootModel, model_validator
from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.errors import InputError
from semigrid.data.shapes import of_shape, parse_json
from semigrid.data.sources.items import Item
from semigrid.data.storage import Storage, open_storage
from semigrid.data.tables import open_table

LISTINGS, IMAGES = "listings/metadata", "images/metadata/images.csv.gz"
# bytes of an unpacked file, several times those of the archive's, and of a listing in it
MAX_UNPACKED, MAX_LINE = 2**28, 2**24


class _Value(BaseModel):
    """A value of an attribute; plain ones have no language, numeric ones more fields."""

    model_config = ConfigDict(coerce_numbers_to_str=True)
    value: str | None = None
    language_tag: str | None = None


class _Values(RootModel[list[_Value]]):
    """An attribute: a plain one is a value or a list whose first one counts."""

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value if isinstance(value, list) else [{"value": value}]

    def __str__(self) -> str:
        return (self.root[0].value if self.root else None) or ""

    def english(self) -> set[str]:
        return {
            entry.value.strip().lower()
            for entry in self.root
            if (entry.language_tag or "").startswith("en") and entry.value
        }


class _Listing(BaseModel):
    """What is read of a listing; attributes are in further keys."""

    model_config = ConfigDict(extra="allow")
    item_id: str
    product_type: _Values = _Values([])
    main_image_id: str | None = None
    other_image_id: list[str] | None = None


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
    for where, listing in _listings(storage):
        kind = str(listing.product_type)
        types[kind] += 1
        if kind != product_type:
            continue
        product, more = listing.item_id, listing.model_extra or {}
        joined.add(product)
        shown = [listing.main_image_id, *((all_images and listing.other_image_id) or [])]
        for image_id in [image_id for image_id in shown if image_id in paths]:
            said = of_shape(_Values, more.get(attribute), f"{where}: {attribute}")
            labels.setdefault(image_id, set()).update(said.english())
            of_image = slices.setdefault(image_id, set())
            if slice is not None:
                value = str(of_shape(_Values, more.get(slice), f"{where}: {slice}"))
                of_image.update([value] if value else [])
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
    where = storage.location(IMAGES)
    content = b"".join(_unpacked_lines(where, storage, IMAGES))
    columns = open_table(where, content).columns("image_id", "path")
    paths = dict(zip(columns["image_id"], columns["path"], strict=True))
    for path in paths.values():
        if path.startswith("/") or "://" in path or ".." in path.split("/"):
            raise InputError(f"{where}: the path {path!r} is not one below images/small")
    return paths


def _listings(storage: Storage) -> Iterator[tuple[str, _Listing]]:
    """Listings, each with its place."""
    names = storage.names(LISTINGS, ".json.gz")
    if not names:
        raise InputError(f"{storage.uri}: {LISTINGS}/listings_*.json.gz is missing")
    for name in names:
        file = posixpath.join(LISTINGS, name)
        for number, line in enumerate(_unpacked_lines(storage.location(file), storage, file), 1):
            where = f"{storage.location(file)}: line {number}"
            yield where, parse_json(_Listing, line, where)


def _unpacked_lines(where: str, storage: Storage, name: str) -> Iterator[bytes]:
    """The lines of a packed file, which may unpack to ``MAX_UNPACKED`` bytes."""
    total = 0
    try:
        with storage.open(name, ahead=True) as packed, gzip.open(packed) as lines:
            while line := lines.readline(MAX_LINE):
                total += len(line)
                if len(line) == MAX_LINE or total > MAX_UNPACKED:
                    raise InputError(
                        f"{where}: unpacks to more than {MAX_UNPACKED >> 20} MiB, or to a line of "
                        f"more than {MAX_LINE >> 20} MiB: not a file of Amazon Berkeley Objects"
                    )
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where}: cannot be read: {error}") from error
