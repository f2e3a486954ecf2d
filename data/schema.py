"""The dataset format: Parquet shards with Hugging Face images, described by ``dataset.json``."""

import json
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from semigrid.data.errors import InputError
from semigrid.data.redact import shown
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.hashes import hash_of

FORMAT = 1
MANIFEST = "dataset.json"
# larger than any number of a dataset, and small enough to be computed with
MOST = 2**53
Count = Annotated[int, Field(ge=0, le=MOST)]
Split = Literal["train", "val", "test", "pool"]
LABELED_SPLITS: tuple[Split, ...] = ("train", "val", "test")
POOL: Split = "pool"

VOTES = "votes"
_FIELDS: list[tuple[str, pa.DataType, dict[str, str]]] = [
    ("image_id", pa.string(), {"dtype": "string", "_type": "Value"}),
    # datasets.load_dataset("parquet", ...) shows a column of this type as images
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]), {"_type": "Image"}),
    ("label", pa.int64(), {"dtype": "int64", "_type": "Value"}),  # null in the pool
    ("group", pa.string(), {"dtype": "string", "_type": "Value"}),
]


def columns_of(extra: Sequence[str] = ()) -> pa.Schema:
    """The columns of a shard: those in every dataset, then ``extra`` string columns."""
    text: tuple[pa.DataType, dict[str, str]] = pa.string(), {"dtype": "string", "_type": "Value"}
    fields = [*_FIELDS, *((name, *text) for name in extra)]
    features = {name: feature for name, _, feature in fields}
    return pa.schema(
        [(name, type_) for name, type_, _ in fields],
        metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )


def is_damage(error: Exception) -> bool:
    """Whether a Parquet file is at fault, and not its storage: Arrow raises bare OSErrors, too."""
    return not isinstance(error, OSError) or type(error) is OSError and error.errno is None


class Shard(BaseModel):
    """One Parquet file: its split, its row groups' row counts and the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    # a plain name: a manifest names no files elsewhere
    file: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.parquet$")
    split: Split
    row_groups: tuple[Annotated[int, Field(gt=0, le=MOST)], ...] = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


class Manifest(BaseModel):
    """The content of ``dataset.json``. Shards hold rows in the seeded order of ``order_seed``.

    ``counts`` holds the number of images by labelled split and class name. ``pool_unit`` is the
    number of pool images at the unlabelled multiplier 100 %. ``slices`` are columns to report
    results by. With ``votes`` a column holds the crowd's votes on each image, as JSON.

    Raises ``ValidationError`` for names that occur twice or do not match, and absurd numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    name: str
    classes: tuple[str, ...]
    counts: dict[Literal["train", "val", "test"], dict[str, Count]]  # all three, none empty
    pool: Count
    pool_unit: Count
    fingerprint: str
    license: str
    source: Annotated[str, AfterValidator(shown)]  # an old dataset's may hold a secret
    order_seed: int = Field(ge=-MOST, le=MOST)
    shards: tuple[Shard, ...]
    slices: tuple[str, ...] = ()
    votes: bool = False

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """The columns that not every dataset has."""
        return (*self.slices, *([VOTES] if self.votes else []))

    @property
    def class_shares(self) -> np.ndarray:
        """Each class's share among all labelled images, (K,): the *natural* shares."""
        images = [sum(of.get(name, 0) for of in self.counts.values()) for name in self.classes]
        return np.array(images) / sum(images)

    def shards_of(self, split: str) -> list[Shard]:
        """The split's shards in stored order."""
        return [shard for shard in self.shards if shard.split == split]

    @field_validator("format")
    @classmethod
    def _is_this_format(cls, number: int) -> int:
        if number != FORMAT:
            raise ValueError(f"format {number}, this version reads {FORMAT}")
        return number

    @field_validator("counts")
    @classmethod
    def _every_split_has_images(cls, counts: dict[Any, Any]) -> dict[Any, Any]:
        for split in LABELED_SPLITS:
            if not sum(counts.get(split, {}).values()):
                raise ValueError(f"the split {split!r} has no images")
        return counts

    @model_validator(mode="after")
    def _names_match(self) -> Self:
        columns = (*columns_of().names, *self.extra_columns)
        files = [shard.file for shard in self.shards]
        for what, names in (("class", self.classes), ("column", columns), ("shard", files)):
            if len({*names}) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise ValueError(f"the {what} {twice[:80]!r} occurs twice")
        for split, images in self.counts.items():
            if images.keys() != {*self.classes}:
                raise ValueError(f"counts.{split}: its classes are not those of the dataset")
        return self


@dataclass(frozen=True)
class ImageTable:
    """Encoded images in memory: ids, file bytes, and class indices (rows,), −1 without a label."""

    ids: Sequence[str]
    images: Sequence[bytes]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> "ImageTable":
        return ImageTable(self.ids[rows], self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class RowGroup:
    """Consecutive rows of a split: ``rows`` from ``start``, in row group ``index`` of a shard.

    ``sha256`` is that of the shard's file.
    """

    file: str
    sha256: str
    index: int
    start: int
    rows: int


def read_row_group(storage: Storage, group: RowGroup) -> tuple[list[str], list[bytes]]:
    """Ids and encoded images of the first ``rows`` of a row group of the dataset at ``storage``."""
    file = _open_shard(storage.uri, group.file, group.sha256)
    table = file.read_row_group(group.index, columns=["image_id", "image.bytes"])
    table = table.slice(0, group.rows)
    images = table["image"].combine_chunks().field("bytes").to_pylist()
    return table["image_id"].to_pylist(), [image or b"" for image in images]


@lru_cache(maxsize=8)
def _open_shard(storage_uri: str, file: str, sha256: str) -> pq.ParquetFile:
    check_shard(storage_uri, file, sha256)
    storage = open_storage(storage_uri)
    # Arrow closes a file that it opened itself, by its path
    return pq.ParquetFile(storage.local_path(file) or storage.open(file))


@cache
def check_shard(storage_uri: str, file: str, sha256: str) -> None:
    """Raises ``InputError`` unless a shard is the one that the manifest names, or ``OSError``.

    The file is read once by each machine, at a gigabyte a second or so. A process looks once: what
    changes in the file later is found by processes that start after it.
    """
    where = open_storage(storage_uri).location(file)
    # storage that is away is this machine's fault, not the dataset's
    if hash_of(open_storage(where)) != sha256:
        raise InputError(
            f"{where}: not the shard that {MANIFEST} beside it names, but a damaged one or one of "
            "another build; copy it here again or build the dataset again"
        )


class Dataset:
    """An opened dataset. Only the manifest is in memory; rows are read on request."""

    def __init__(self, storage: Storage, manifest: Manifest):
        self.storage = storage
        self.manifest = manifest

    @property
    def num_classes(self) -> int:
        return len(self.manifest.classes)

    def rows_in(self, split: str) -> int:
        return sum(shard.rows for shard in self.manifest.shards_of(split))

    def row_groups(self, split: str) -> list[RowGroup]:
        """The split's row groups in stored order."""
        groups, start = [], 0
        for shard in self.manifest.shards_of(split):
            for index, rows in enumerate(shard.row_groups):
                groups.append(RowGroup(shard.file, shard.sha256, index, start, rows))
                start += rows
        return groups

    def check(self, split: str) -> None:
        """Raises ``InputError`` unless the split's shards are those that the manifest names."""
        for shard in self.manifest.shards_of(split):
            check_shard(self.storage.uri, shard.file, shard.sha256)

    def _column_tables(self, split: str, columns: list[str], check: bool = True) -> pa.Table:
        if check:
            self.check(split)
        expected = columns_of(self.manifest.extra_columns)
        tables = [expected.empty_table().select(columns)]
        for shard in self.manifest.shards_of(split):
            try:
                with self.storage.open(shard.file) as opened:
                    tables.append(self._read_shard(shard, pq.ParquetFile(opened), columns))
            except (OSError, ValueError, pa.ArrowException) as error:
                if not is_damage(error):
                    raise
                raise InputError(
                    f"{self.storage.location(shard.file)}: not what {MANIFEST} says: {error}; "
                    "copy it here again or build the dataset again"
                ) from error
        return pa.concat_tables(tables)

    def check_file(self, shard: Shard, file: pq.ParquetFile, columns: Sequence[str]) -> None:
        """Raises ``ValueError`` unless a shard's rows and columns are those of the manifest."""
        groups = tuple(file.metadata.row_group(n).num_rows for n in range(file.num_row_groups))
        if groups != shard.row_groups:
            raise ValueError(
                f"it has {sum(groups):,} rows in {len(groups)} row groups, not {shard.rows:,} in "
                f"{len(shard.row_groups)}, or others in each"
            )
        expected = columns_of(self.manifest.extra_columns)
        for name in columns:
            if name not in file.schema_arrow.names:
                raise ValueError(f"it has no column {name!r}")
            if (kind := file.schema_arrow.field(name).type) != expected.field(name).type:
                raise ValueError(f"its column {name!r} is {kind}, not {expected.field(name).type}")

    def _read_shard(self, shard: Shard, file: pq.ParquetFile, columns: list[str]) -> pa.Table:
        """Columns of a shard. Raises ``ValueError`` for others than the manifest's."""
        self.check_file(shard, file, columns)
        table = file.read(columns=columns).select(columns)
        table.validate(full=True)
        if "label" in columns and shard.split != POOL:
            least, most = pc.min_max(table["label"]).as_py().values()
            if table["label"].null_count or least < 0 or most >= self.num_classes:
                raise ValueError(f"it has labels other than 0 to {self.num_classes - 1}")
        if "image_id" in columns and table["image_id"].null_count:
            raise ValueError("it has an image without an id")
        return table.replace_schema_metadata(columns_of(self.manifest.extra_columns).metadata)

    def column(self, split: str, name: str, *, check: bool = True) -> pa.ChunkedArray:
        """One column of a split in stored order.

        Raises ``InputError`` where a shard is not the one that the manifest names. Without
        ``check`` only its columns and row counts must be: a bucket's shards are not read whole.
        """
        return self._column_tables(split, [name], check)[name]

    @cached_property
    def train_labels(self) -> np.ndarray:
        """Class index of every training row in stored order, shape (rows,)."""
        return np.asarray(self.column("train", "label"), dtype=np.int64)

    def images(self, split: str, ids: Set[str]) -> dict[str, bytes]:
        """Encoded images of a split by id, for these ids. Only their row groups are read."""
        contents: dict[str, bytes] = {}
        names = self.column(split, "image_id").to_pylist()
        for group in self.row_groups(split):
            if not ids.isdisjoint(names[group.start : group.start + group.rows]):
                rows = zip(*read_row_group(self.storage, group), strict=True)
                contents |= {name: image for name, image in rows if name in ids}
        return contents

    def read(self, split: str, rows: np.ndarray | None = None) -> ImageTable:
        """Reads all rows of a split into memory, or the rows at these positions, in their order.

        Raises ``InputError`` where a shard is not the one that the manifest names.
        """
        table = self._column_tables(split, ["image_id", "image", "label"])
        if rows is not None:
            table = table.take(pa.array(rows))
        labels = table["label"].fill_null(-1).to_numpy().astype(np.int64)
        images = pc.struct_field(table["image"], "bytes").to_pylist()
        return ImageTable(table["image_id"].to_pylist(), images, labels)
