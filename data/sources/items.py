"""Items: the images that a source lists but has not read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import pyarrow.parquet as pq

from semigrid.data.storage import open_storage

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"),
)


class Inside(Protocol):
    """The part of a file that holds an image. Its ``repr`` tells it from others."""

    @property
    def identity(self) -> str | None:
        """What stands for the image's bytes if those differ between machines."""
        return None

    def read(self, uri: str) -> bytes:
        """The image's bytes."""


@dataclass(frozen=True)
class Extent(Inside):
    """Consecutive bytes of a file, such as a member of an uncompressed tar."""

    offset: int
    size: int

    def read(self, uri: str) -> bytes:
        with open_storage(uri).open() as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class ParquetRow(Inside):
    """A row of a Parquet file's row group, in a column of Hugging Face images."""

    column: str
    row_group: int
    row: int

    def read(self, uri: str) -> bytes:
        return _row_group(uri, self.column, self.row_group)[self.row]


@dataclass(frozen=True)
class Item:
    """An image of a source, not yet read.

    ``image_id`` is unique within the source and does not depend on the source's location. ``uri``
    is the file, and ``inside`` the part of it that holds the image (None: the whole file). Images
    of a ``group`` are in the same split. Results are reported by ``slices``. ``votes`` are
    the crowd's that count, by label.
    """

    image_id: str
    uri: str
    label: str | None = None
    group: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    inside: Inside | None = None
    votes: Mapping[str, int] | None = None

    @property
    def identity(self) -> str | None:
        """What stands for the image's bytes if those differ between machines."""
        return None if self.inside is None else self.inside.identity

    def read(self) -> bytes:
        """Reads the image's bytes, waiting for a bucket that is away.

        Raises ``OSError``, and ``InputError`` for an address that is not opened.
        """
        return open_storage(self.uri).read() if self.inside is None else self.inside.read(self.uri)


@lru_cache(maxsize=2)  # a chunk's items are in the order of row groups
def _row_group(uri: str, column: str, row_group: int) -> list[bytes]:
    with open_storage(uri).open() as file:
        table = pq.ParquetFile(file).read_row_group(row_group, columns=[f"{column}.bytes"])
    contents = table[column].combine_chunks().field("bytes").to_pylist()
    return [content or b"" for content in contents]
