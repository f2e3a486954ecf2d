"""Images that lie in files: folders of class folders, and tables with paths or URLs.

What every source has in common, an item and its bytes, stands here too.
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import fsspec
import pyarrow.parquet as pq

from semigrid.data.crowd.votes import read_table
from semigrid.data.errors import InputError
from semigrid.data.sources.drawing import draw
from semigrid.data.sources.patterns import URI, VERSION
from semigrid.data.storage import open_storage
from semigrid.data.storage.bucket import BUCKETS

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"),
)


@dataclass(frozen=True)
class Extent:
    """A run of bytes of a file: a member of an uncompressed tar."""

    offset: int
    size: int


@dataclass(frozen=True)
class Cell:
    """A row of a Parquet file's row group, in a column of Hugging Face images."""

    column: str
    row_group: int
    row: int


@dataclass(frozen=True)
class Drawn:
    """In no file: an image of ``builtin://patterns``, drawn whenever it is read."""

    seed: int
    number: int
    size: int
    version: int = VERSION


@dataclass(frozen=True)
class Item:
    """An image of a source, not yet read.

    ``image_id`` is unique within the source and the same wherever the source lies; ``uri`` is
    the file with the bytes, and ``inside`` where in it they are (None: all of it). Images with one
    ``group`` stay on one side of every split. ``slices`` are what results are reported by.
    """

    image_id: str
    uri: str
    label: str | None = None
    group: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    inside: Extent | Cell | Drawn | None = None

    @property
    def identity(self) -> str | None:
        """What an image is on every machine, where its bytes are not the same; None: the bytes."""
        if not isinstance(self.inside, Drawn):
            return None
        of = self.inside
        return f"{URI} version {of.version} seed {of.seed} size {of.size} image {of.number}"


def read_item(item: Item) -> bytes:
    """The bytes of an image. A bucket that is away is waited for. Raises ``OSError``."""
    if isinstance(item.inside, Drawn):
        return draw(item.inside.seed, item.inside.number, item.inside.size)
    if isinstance(item.inside, Cell):
        content = _row_group(item.uri, item.inside.column, item.inside.row_group)[item.inside.row]
        return content
    if item.inside is None:
        if item.uri.partition("://")[0] in BUCKETS:
            return open_storage(item.uri).read()
        # a list of addresses has dead ones, none of which is waited for
        with fsspec.open(item.uri, "rb") as file:
            return bytes(file.read())
    with open_storage(item.uri).open() as file:
        file.seek(item.inside.offset)
        return bytes(file.read(item.inside.size))


@lru_cache(maxsize=2)  # the items of a chunk come row group by row group
def _row_group(uri: str, column: str, row_group: int) -> list[bytes]:
    with open_storage(uri).open() as file:
        table = pq.ParquetFile(file).read_row_group(row_group, columns=[f"{column}.bytes"])
    found = table[column].combine_chunks().field("bytes").to_pylist()
    return [content or b"" for content in found]


def folder_items(uri: str, labeled: bool = True) -> list[Item]:
    """Images below a folder: ``root/<class>/…`` if labelled, any depth below the class.

    Raises ``InputError`` where there is no image, or a labelled one lies outside class folders.
    """
    storage = open_storage(uri)
    if not storage.is_folder():
        raise InputError(f"{uri}: there is no such folder")
    items = []
    for name in storage.find():
        if not name.lower().endswith(SUFFIXES):
            continue
        label, _, rest = name.partition("/")
        if labeled and not rest:
            raise InputError(
                f"{uri}: {name} lies beside the class folders; images are expected in "
                f"{uri}/<class>/, or give the folder as pool if they have no labels"
            )
        items.append(Item(name, storage.location(name), label if labeled else None))
    if not items:
        raise InputError(f"{uri}: no image here ({', '.join(SUFFIXES[:5])}, …)")
    return items


def table_items(
    uri: str,
    *,
    image: str = "image",
    label: str | None = "label",
    image_id: str | None = None,
    group: str | None = None,
    slices: Iterable[str] = (),
    root: str | None = None,
) -> list[Item]:
    """Images of a CSV or Parquet table, one row each, with a column of paths or URLs.

    Args:
        image: the column of paths or URLs; relative paths count from ``root``.
        label: the column of labels, empty for an image without one; None: the table has none.
        image_id: the column of ids, by default the path.
        group, slices: columns, see ``Item``.
        root: by default the table's folder.

    Raises:
        InputError: naming the column or row.
    """
    table = read_table(uri)
    slices = list(slices)
    named = [name for name in (image, label, image_id, group, *slices) if name is not None]
    missing = [name for name in named if name not in table]
    if missing:
        raise InputError(
            f"{uri}: there is no column {missing[0]!r}; there are {', '.join(table.columns)}"
        )
    empty = table[image] == ""
    if empty.any():
        raise InputError(f"{uri}: row {int(empty.to_numpy().argmax()) + 1} has no {image}")
    base = open_storage(root if root is not None else posixpath.dirname(uri) or ".").uri
    ids = table[image_id or image]
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{uri}: {len(repeated)} images stand in it twice, the first is {repeated.iloc[0]!r}"
        )
    none = [None] * len(table)
    labels = none if label is None else [value or None for value in table[label]]
    groups = none if group is None else [value or None for value in table[group]]
    values = zip(*(table[name] for name in slices), strict=True) if slices else [()] * len(table)
    rows = zip(ids, table[image], labels, groups, values, strict=True)
    return [
        Item(name, _absolute(path, base), of, with_, dict(zip(slices, found, strict=True)))
        for name, path, of, with_, found in rows
    ]


def _absolute(path: str, base: str) -> str:
    if "://" in path or path.startswith("/"):
        return path
    return posixpath.join(base, path)
