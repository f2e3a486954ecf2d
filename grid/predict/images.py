"""What to predict: the images of folders, files or a dataset, in parts of one output file each."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol

import pyarrow as pa
from PIL import Image

from semigrid.data.builder.clean import CleanSettings, UnusableImageError, decode_upright
from semigrid.data.builder.ingest import read_patiently
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import LABELED_SPLITS, MANIFEST, POOL, Dataset, RowGroup
from semigrid.data.schema import read_row_group as read_group
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import SUFFIXES, Item
from semigrid.data.storage import Storage, open_storage
from semigrid.data.views.render import BrokenImageError, decode
from semigrid.trainers.trial_data import EVALUATION_BATCH

SPLITS = (*LABELED_SPLITS, POOL)
# images of an output file: what an interruption costs at most, and what is held in memory
PART_IMAGES = 64 * EVALUATION_BATCH
# files that are read at once: a bucket answers many questions as soon as one
READERS = 8

# an image's id, and itself in RGB or why there is none
Decoded = tuple[str, Image.Image | None, str | None]


class Rows(Protocol):
    """A run of images that can be cut, sent to a process, and decoded there one by one."""

    @property
    def count(self) -> int: ...

    def cut(self, start: int, stop: int) -> "Rows": ...

    def decoded(self) -> Iterator[Decoded]: ...


@dataclass(frozen=True)
class FileRows:
    """Images in files of their own: ids and URIs. They are made upright and RGB as datasets are."""

    files: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        return len(self.files)

    def cut(self, start: int, stop: int) -> "FileRows":
        return FileRows(self.files[start:stop])

    def decoded(self) -> Iterator[Decoded]:
        with ThreadPoolExecutor(READERS) as readers:
            # only so many ahead: photographs may be large
            for first in range(0, self.count, READERS):
                some = self.files[first : first + READERS]
                for (image_id, _), content in zip(some, readers.map(_read, some), strict=True):
                    yield image_id, *_upright(content)


def _read(file: tuple[str, str]) -> bytes | UnusableImageError:
    try:
        return read_patiently(Item(*file))
    except UnusableImageError as error:
        return error


def _upright(content: bytes | UnusableImageError) -> tuple[Image.Image | None, str | None]:
    try:
        if isinstance(content, UnusableImageError):
            raise content
        return decode_upright(content, CleanSettings()), None
    except UnusableImageError as error:
        return None, str(error)


@dataclass(frozen=True)
class SplitRows:
    """Rows ``start`` to ``stop`` of a split of a dataset, decoded as an evaluation does.

    ``groups`` are the row groups in which they lie.
    """

    storage: Storage
    groups: tuple[RowGroup, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    def cut(self, start: int, stop: int) -> "SplitRows":
        start, stop = self.start + start, min(self.start + stop, self.stop)
        inside = tuple(g for g in self.groups if g.start < stop and start < g.start + g.rows)
        return replace(self, groups=inside, start=start, stop=stop)

    def decoded(self) -> Iterator[Decoded]:
        for group in self.groups:
            try:
                ids, images = read_group(self.storage, group)
            except (OSError, pa.ArrowException) as error:
                where, why = self.storage.location(group.file), str(error).rstrip(".")
                raise OSError(
                    f"{where}: row group {group.index} cannot be read: {why}; semigrid data check "
                    f"{self.storage.uri} says what else is damaged"
                ) from error
            wanted = slice(max(0, self.start - group.start), self.stop - group.start)
            for image_id, content in zip(ids[wanted], images[wanted], strict=True):
                try:
                    yield image_id, decode(content or b"", image_id), None
                except BrokenImageError as error:
                    yield image_id, None, str(error.__cause__ or error)


@dataclass(frozen=True)
class Part:
    """The images of one output file, and its name."""

    file: str
    rows: Rows

    @property
    def count(self) -> int:
        return self.rows.count


@dataclass(frozen=True)
class Images:
    """All images to predict, and what tells them from others."""

    parts: list[Part]
    identity: dict[str, Any]

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


def find_images(sources: Sequence[str], splits: Sequence[str] = ()) -> Images:
    """The images of a dataset, or of any folders and files, without reading one.

    A folder's images are called by their paths below it, after the folder as given where there are
    several sources; a file as it is given. Raises ``InputError`` for what is not there, and where
    an image would be in it twice.
    """
    datasets = [source for source in sources if is_dataset(source)]
    if not datasets:
        if splits:
            raise InputError(
                f"--split {splits[0]}: only a dataset has splits; {sources[0]} is none"
            )
        return _of_files(sources)
    if len(sources) > 1:
        raise InputError(
            f"{datasets[0]} is a dataset: give it alone, or folders and files of images"
        )
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise InputError(f"--split {unknown[0]}: no such split; there are {', '.join(SPLITS)}")
    return of_dataset(open_dataset(sources[0]), [s for s in SPLITS if not splits or s in splits])


def is_dataset(source: str) -> bool:
    """Whether a source is a dataset rather than a folder or file."""
    if source.startswith("builtin://"):
        return True
    # of thousands of files in a bucket, asking for each would take minutes
    return not source.lower().endswith(SUFFIXES) and open_storage(source).exists(MANIFEST)


def of_dataset(dataset: Dataset, splits: Sequence[str]) -> Images:
    """The images of some splits; a split's batches are those of its evaluation."""
    parts: list[Part] = []
    for split in splits:
        count = dataset.rows_in(split)
        if count:
            rows = SplitRows(dataset.storage, tuple(dataset.row_groups(split)), 0, count)
            parts += _parts(split, rows)
    if not parts:
        raise InputError(f"{dataset.storage.uri}: there are no images in {', '.join(splits)}")
    identity = {"dataset": dataset.manifest.fingerprint, "splits": list(splits)}
    return Images(parts, identity)


def _of_files(sources: Sequence[str]) -> Images:
    files = [file for source in sources for file in _files(source, len(sources) > 1)]
    # one file under two names is one image: "photos" holds what is in "photos/new"
    for what in (0, 1):
        twice = [name for name, n in Counter(file[what] for file in files).items() if n > 1]
        if twice:
            raise InputError(
                f"{len(twice):,} images are given twice, the first is {twice[0]}; give each folder "
                "or file once, and none that lies in another"
            )
    digest = sha256()
    for file in files:
        digest.update(f"{len(file[0])} {len(file[1])} {file[0]}{file[1]}".encode())
    identity = {"files": len(files), "sha256": digest.hexdigest()}
    return Images(list(_parts("images", FileRows(tuple(files)))), identity)


def _files(source: str, several: bool) -> Iterator[tuple[str, str]]:
    """Ids and URIs."""
    storage = open_storage(source)
    given = source.rstrip("/").removeprefix("./")
    try:
        if storage.is_folder():
            for item in folder_items(source, labeled=False):
                yield posixpath.join(given, item.image_id) if several else item.image_id, item.uri
            return
        if not storage.exists():
            raise InputError(f"{source}: there is no such folder, file or dataset")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: cannot be read: {error}") from error
    yield given, storage.uri


def _parts(name: str, rows: FileRows | SplitRows) -> Iterator[Part]:
    for number, start in enumerate(range(0, rows.count, PART_IMAGES)):
        yield Part(f"{name}-{number:06d}.parquet", rows.cut(start, start + PART_IMAGES))
