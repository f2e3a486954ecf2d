"""Items: the images that a source lists but has not read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.parquet import Watched
from semigrid.data.schema import Split
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import WEB
from semigrid.data.storage.files import UnusableFileError, check_size

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"),
    *(".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".apng", ".mpo", ".j2k", ".jpf", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)


# endings of images that are not decoded
HEIC = (".heic", ".heif", ".hif")
FOREIGN = (
    *(*HEIC, ".jxl", ".svg", ".svgz", ".psd", ".psb", ".ico", ".tga", ".eps"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
    *(".nrw", ".gpr", ".3fr", ".iiq", ".rwl", ".sr2", ".srf", ".kdc", ".mef", ".mos", ".erf"),
    *(".dcr", ".x3f"),
)
# largest file of an image; its pixels have a limit of their own
IMAGE_BYTES = 256 * 2**20


def readable(name: str) -> str:
    r"""A file's name as text: bytes that are not UTF-8 are shown as ``\xe9``."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of characters, which no file system has written
        return name.encode("utf-8", "backslashreplace").decode()


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
        check_size(self.size, IMAGE_BYTES)
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
        return _rows(uri, self.column, self.row_group).read(self.row)


@dataclass(frozen=True)
class Item:
    """An image of a source, not yet read.

    ``image_id`` is unique within the source and does not depend on the source's location. ``uri``
    is the file, and ``inside`` the part of it that holds the image (None: the whole file). Images
    of a ``group`` are in the same split. Results are reported by ``slices``. ``votes`` are
    the crowd's that count, by label. ``split`` is the one that the source gives, if it does.
    """

    image_id: str
    uri: str
    label: str | None = None
    group: str | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    inside: Inside | None = None
    votes: Mapping[str, int] | None = None
    split: Split | None = None

    @property
    def identity(self) -> str | None:
        """What stands for the image's bytes if those differ between machines."""
        return None if self.inside is None else self.inside.identity

    @property
    def tells_its_version(self) -> bool:
        """Whether the answer with the image's bytes says what version of the file they are of."""
        return self.inside is None and self.uri.partition("://")[0].lower() in WEB

    def read_with_version(self) -> tuple[bytes, str | None]:
        """Like ``read``, with the file's version if the answer tells it."""
        if not self.tells_its_version:
            return self.read(), None
        content, version = open_storage(self.uri).read_with_version(IMAGE_BYTES)
        return content, version or None

    def read(self) -> bytes:
        """Reads the image's bytes, waiting for a bucket that is away.

        Raises ``OSError``, ``UnusableFileError`` where another attempt is in vain, and
        ``InputError`` for an address that is not opened.
        """
        if self.inside is not None:
            return self.inside.read(self.uri)
        return open_storage(self.uri).read(limit=IMAGE_BYTES)


class _Rows:
    """The images of a row group one by one: few bytes of a file may stand for many of memory."""

    def __init__(self, uri: str, column: str, row_group: int):
        self._place = uri, column, row_group
        self._damage: UnusableFileError | None = None
        self._start()

    def _start(self) -> None:
        self._images, self._next = self._all(*self._place), 0
        self._file: Watched | None = None

    def read(self, row: int) -> bytes:
        if row < self._next:
            self._start()
        if self._damage is not None:
            raise self._damage
        try:
            for _ in range(row - self._next):
                next(self._images)
            image = next(self._images)
        except (pa.ArrowException, OSError, StopIteration) as error:
            at_storage = self._file is None or self._file.failure is not None
            self._start()
            if at_storage:  # which may be there again for the next attempt
                raise
            self._damage = UnusableFileError(f"damaged: {error}")
            raise self._damage from error
        self._next = row + 1
        check_size(image.size, IMAGE_BYTES)
        return bytes(image)

    def _all(self, uri: str, column: str, row_group: int) -> Iterator[pa.Buffer]:
        with open_storage(uri).open() as opened:
            self._file = Watched(opened)
            columns = [f"{column}.bytes"]
            with pq.ParquetFile(self._file) as file:
                for rows in file.iter_batches(1, row_groups=[row_group], columns=columns):
                    yield rows.column(0).field("bytes")[0].as_buffer() or pa.py_buffer(b"")


# a chunk's items are in the order of row groups
_rows = lru_cache(maxsize=1)(_Rows)
