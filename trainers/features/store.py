"""Numbers for each image of a dataset, such as features, in parts that are never made twice."""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.errors import InputError
from semigrid.data.json_text import json_text
from semigrid.data.ranges import Block, SplitRange, pieces
from semigrid.data.schema import Dataset
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.hashes import hash_of
from semigrid.data.storage.in_use import LOCK, remove_unfinished
from semigrid.data.storage.locks import LockedError, locked
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.trial.data import EVALUATION_BATCH

# Images of a file: the most that an interruption costs, and whole batches.
PART_IMAGES = 8 * EVALUATION_BATCH
ABOUT = "about.json"
_FILE = re.compile(r"((?:train|val|test|pool)-\d{6})-([0-9a-f]{16})\.parquet")


@dataclass(frozen=True)
class Part:
    """Consecutive images of a split whose rows are one file; ``name`` begins its name."""

    name: str
    images: SplitRange


@dataclass
class PartStore:
    """Rows of numbers for the images of a dataset, in a folder of their own.

    A file's name has the hash of its content, so a file is whole or is made again.

    Attributes:
        about: everything that the rows depend on, which is written beside them.
        column: what the rows are called in the files.
        pool_images: how many images of the pool have rows, from its start; None for all. A last
            part is whole nevertheless, so that a larger number makes nothing twice.
    """

    storage: Storage
    dataset: Dataset
    about: Mapping[str, Any]
    column: str
    pool_images: int | None = None

    def parts(self, splits: Sequence[str]) -> list[Part]:
        """The parts of these splits, in stored order."""
        found = []
        for split in splits:
            images = SplitRange.whole(self.dataset, split)
            if split == "pool" and self.pool_images is not None:
                images = images.cut(0, -(-self.pool_images // PART_IMAGES) * PART_IMAGES)
            for number, part in enumerate(pieces(images, PART_IMAGES)):
                found.append(Part(f"{split}-{number:06d}", part))
        return found

    def parts_with(self, split: str, rows: np.ndarray) -> list[Part]:
        """The parts of a split that have any of these rows."""
        parts = self.parts([split])
        return [parts[number] for number in np.unique(rows // PART_IMAGES)]

    def missing(self, splits: Sequence[str]) -> list[Part]:
        """The parts of these splits that are not there, or damaged."""
        files = self._files()
        return [part for part in self.parts(splits) if not self._is_whole(files.get(part.name))]

    def _files(self) -> dict[str, tuple[str, str]]:
        """Names and hashes of the files, by their parts' names."""
        found = filter(None, map(_FILE.fullmatch, self.storage.names()))
        return {match[1]: (match[0], match[2]) for match in found}

    def _is_whole(self, file: tuple[str, str] | None) -> bool:
        if file is None:
            return False
        name, digest = file
        return hash_of(self.storage.folder(name)).startswith(digest)

    @contextlib.contextmanager
    def alone(self, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Waits until no other process of this machine writes here, and keeps others waiting.

        ``wait`` is called where there is one. In a bucket two may work at the same time: each
        writes whole files of the same rows.
        """
        if not self.storage.exists(ABOUT):  # makes the folder, once the storage is there
            self.storage.write(ABOUT, (json_text(dict(self.about)) + "\n").encode())
        folder = self.storage.local_path()
        if folder is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                is_alone = stack.enter_context(locked(folder / LOCK, seconds=0))
            except LockedError:
                wait()
                is_alone = stack.enter_context(locked(folder / LOCK))
            if is_alone:
                remove_unfinished(self.storage, "")
            yield

    def write(self, part: Part, made: Block) -> None:
        """Writes a part's file, whole or not at all, with a row for each image.

        ``made.rows`` are (N, D), kept in float16; those of an image with an error are zero.
        """
        broken = np.array([error is not None for error in made.errors], dtype=bool)
        rows = np.where(broken[:, None], np.float16(0), made.rows.astype(np.float16))
        flat = pa.array(rows.reshape(-1), pa.float16())
        columns = {
            "image_id": pa.array(made.ids, pa.string()),
            self.column: pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
            "error": pa.array(made.errors, pa.string()),
        }
        buffer = io.BytesIO()
        # half-precision numbers hardly become smaller
        pq.write_table(pa.table(columns), buffer, compression="none")
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:16]
        name = f"{part.name}-{digest}.parquet"
        self.storage.write(name, content)
        self.remove(part, but=name)  # damaged, and of another content before

    def remove(self, part: Part, but: str = "") -> None:
        """Removes the files of a part, all of them or all but one."""
        for name in self.storage.names():
            if name.startswith(f"{part.name}-") and name != but:
                self.storage.delete(name)

    def blocks(self, split: str) -> Iterator[Block]:
        """What each part of a split has, in stored order. Its parts must be there."""
        return self._blocks(self.parts([split]))

    def _blocks(self, parts: Sequence[Part]) -> Iterator[Block]:
        files = self._files()
        for part in parts:
            with self.storage.open(files[part.name][0], ahead=True) as stream:
                table = pq.read_table(stream)
            names = table["image_id"].to_pylist()
            column = table[self.column].combine_chunks()
            rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(names), -1)
            yield Block(names, table["error"].to_pylist(), rows)


class FeatureStore(PartStore):
    """The features of one dataset by one backbone, in a folder of their own below ``root``.

    The folder's name is the hash of everything that they depend on: the backbone, its weights, the
    view, and the dataset's fingerprint.
    """

    def __init__(self, root: str | Storage, backbone: FrozenBackbone, dataset: Dataset):
        about = {**backbone.identity, "dataset": dataset.manifest.fingerprint}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        storage = open_storage(root) if isinstance(root, str) else root
        super().__init__(storage.folder(digest[:20]), dataset, about, "features")
        self.backbone = backbone

    def write(self, part: Part, made: Block) -> None:
        """Raises ``InputError`` for features that are not finite."""
        self.backbone.check_finite(made)
        super().write(part, made)

    def read(self, split: str, rows: np.ndarray | None = None) -> tuple[list[str], np.ndarray]:
        """Ids and features (N, D), float16, of a split in stored order, or of ascending ``rows``.

        Their parts must be there. In the pool an image that cannot be decoded is zero; raises
        ``InputError`` for a labelled one, as a training does.
        """
        ids: list[str] = []
        found = []
        if rows is None:
            rows = np.arange(self.dataset.rows_in(split))
        parts = self.parts_with(split, rows)
        for part, block in zip(parts, self._blocks(parts), strict=True):
            start, stop = part.images.start, part.images.stop
            kept = rows[(start <= rows) & (rows < stop)] - start
            broken = [n for n in kept if block.errors[n] is not None]
            if split != "pool" and broken:
                raise InputError(
                    f"{self.dataset.storage.uri}: the image {block.ids[broken[0]]} cannot be "
                    f"decoded: {block.errors[broken[0]]}; build the dataset again without it"
                )
            found.append(block.rows[kept])
            ids += [block.ids[n] for n in kept]
        return ids, np.concatenate(found)
