"""What to predict: the images of folders, files or a dataset, in parts of one output file each."""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from semigrid.data.builder.chunks import read_patiently
from semigrid.data.builder.clean import CleanSettings, decode_upright
from semigrid.data.catalog import open_dataset
from semigrid.data.decoding import MOST_PIXELS, UnusableImageError
from semigrid.data.errors import InputError
from semigrid.data.ranges import Decoded, ImageRange, SplitRange, pieces
from semigrid.data.redact import shown
from semigrid.data.schema import LABELED_SPLITS, MANIFEST, POOL, Dataset
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import SUFFIXES, Item, readable
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.sources.versions import versions_of
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import base_name, unique_names
from semigrid.trainers.trial.data import EVALUATION_BATCH

SPLITS = (*LABELED_SPLITS, POOL)
# Images of an output file: the most that an interruption costs, and that memory holds.
PART_IMAGES = 64 * EVALUATION_BATCH
# Files read at once: a bucket answers many requests in the time of one.
READERS = 8


@dataclass(frozen=True)
class FileRange:
    """Images in files of their own, given by id and URI; made upright and RGB as in datasets."""

    files: Sequence[tuple[str, str]]

    @property
    def count(self) -> int:
        return len(self.files)

    def cut(self, start: int, stop: int) -> "FileRange":
        return FileRange(self.files[start:stop])

    def decoded(self) -> Iterator[Decoded]:
        # a build may have taken any of these
        settings = CleanSettings(max_pixels=MOST_PIXELS)
        with ThreadPoolExecutor(READERS) as readers:
            for first in range(0, self.count, READERS):  # no more ahead: photographs may be large
                files = self.files[first : first + READERS]
                contents = [readers.submit(read_patiently, Item(*file)) for file in files]
                for (image_id, _), content in zip(files, contents, strict=True):
                    try:
                        yield image_id, decode_upright(content.result(), settings), None
                    except UnusableImageError as error:
                        yield image_id, None, str(error)


@dataclass(frozen=True)
class Images:
    """The images to predict by the name of their output file, and what tells them from others."""

    parts: dict[str, ImageRange]
    identity: dict[str, Any]


def find_images(
    sources: Sequence[str], splits: Sequence[str] = (), left_out: LeftOut | None = None
) -> Images:
    """The images of a dataset, or of any folders and files, listed without reading them.

    The id of an image in a folder is its path below the folder, after the folder as given where
    there are several sources. The id of a file is the file as given. ``left_out`` receives what
    else the folders hold. Raises ``InputError`` for sources that do not exist, and where an image
    would be listed twice.
    """
    datasets = [source for source in sources if _is_dataset(source)]
    if not datasets:
        if splits:
            raise InputError(
                f"--split {splits[0]}: only a dataset has splits; {sources[0]} is none"
            )
        return _of_files(sources, LeftOut() if left_out is None else left_out)
    if len(sources) > 1:
        raise InputError(
            f"{datasets[0]} is a dataset: give it alone, or folders and files of images"
        )
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise InputError(f"--split {unknown[0]}: no such split; there are {', '.join(SPLITS)}")
    return dataset_images(
        open_dataset(sources[0]), [s for s in SPLITS if not splits or s in splits]
    )


def _is_dataset(source: str) -> bool:
    if source.startswith("builtin://"):
        return True
    # asking for a manifest in each of thousands of files in a bucket would take minutes
    if base_name(source).lower().endswith(SUFFIXES):
        return False
    return open_storage(source).exists(MANIFEST)


def dataset_images(dataset: Dataset, splits: Sequence[str]) -> Images:
    """The images of some splits, in the order of their evaluation. ``InputError`` without any."""
    parts: dict[str, ImageRange] = {}
    for split in splits:
        parts |= _parts(split, SplitRange.whole(dataset, split))
    if not parts:
        raise InputError(f"{dataset.storage.uri}: there are no images in {', '.join(splits)}")
    return Images(parts, {"dataset": dataset.manifest.fingerprint, "splits": list(splits)})


def _of_files(sources: Sequence[str], left_out: LeftOut) -> Images:
    names = zip(sources, unique_names(sources), strict=True)
    several = len(sources) > 1
    files = [file for source, name in names for file in _files(source, name, several, left_out)]
    # a file with two names is one image: "photos" holds what is in "photos/new"
    for what in (0, 1):
        twice = [name for name, n in Counter(file[what] for file in files).items() if n > 1]
        if twice:
            raise InputError(
                f"{len(twice):,} images are given twice, the first is {twice[0]}; give each folder "
                "or file once, and none that lies in another"
            )
    # a part that was predicted for an earlier content of a file must not stay
    versions = versions_of([Item(*file) for file in files], web=False)
    told = [(name, shown(uri), v) for (name, uri), v in zip(files, versions, strict=True)]
    digest = sha256(json.dumps(told).encode()).hexdigest()
    return Images(_parts("images", FileRange(files)), {"files": len(files), "sha256": digest})


def _files(source: str, name: str, several: bool, left_out: LeftOut) -> list[tuple[str, str]]:
    """Ids and URIs."""
    storage, given = open_storage(source), readable(name.rstrip("/").removeprefix("./"))
    if storage.is_folder():
        items = folder_items(source, labeled=False, left_out=left_out)
        below = given if several else ""
        return [(posixpath.join(below, item.image_id), item.uri) for item in items]
    if not storage.exists():
        raise InputError(f"{source}: there is no such folder, file or dataset")
    return [(given, storage.uri)]


def _parts(name: str, images: ImageRange) -> dict[str, ImageRange]:
    return {
        f"{name}-{number:06d}.parquet": part
        for number, part in enumerate(pieces(images, PART_IMAGES))
    }
