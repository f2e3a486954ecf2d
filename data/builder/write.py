"""Rows to a dataset: order them, write the shards, and the manifest last."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.schema import (
    COLUMNS,
    FORMAT,
    LABELED_SPLITS,
    MANIFEST,
    POOL,
    Dataset,
    Manifest,
    Shard,
    Split,
)
from semigrid.data.splits import seeded_order
from semigrid.data.storage import Storage, open_storage


@dataclass(frozen=True)
class StoredImage:
    """One image to store: its file bytes, class index (None in the pool), split and group."""

    image_id: str
    image: bytes
    label: int | None
    split: str
    group: str


def write_dataset(
    uri: str,
    rows: Sequence[StoredImage],
    *,
    name: str,
    classes: Sequence[str],
    license: str,
    source: str,
    order_seed: int = 0,
    pool_unit: int | None = None,
    rows_per_group: int = 256,
    groups_per_shard: int = 32,
) -> Dataset:
    """Writes shards in the seeded order, then ``dataset.json``: until then there is no dataset.

    ``pool_unit`` is what the multiplier 100 % means, by default the whole pool. Raises
    ``ValueError`` for repeated image ids, unknown splits, labels that fit no class, and groups that
    stand in two splits.
    """
    repeated = [i for i, n in Counter(row.image_id for row in rows).items() if n > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} image ids are not unique, the first is {repeated[0]!r}")
    unknown = sorted({row.split for row in rows} - {*LABELED_SPLITS, POOL})
    if unknown:
        raise ValueError(f"unknown split {unknown[0]!r}; there are train, val, test and pool")
    split_of: dict[str, str] = {}
    for row in rows:
        if split_of.setdefault(row.group, row.split) != row.split:
            raise ValueError(f"group {row.group!r} stands in {split_of[row.group]} and {row.split}")
        if (row.split == POOL) != (row.label is None):
            raise ValueError(f"{row.image_id}: pool rows have no label, all others have one")
        if row.label is not None and not 0 <= row.label < len(classes):
            raise ValueError(f"{row.image_id}: label {row.label} of {len(classes)} classes")
    storage = open_storage(uri)
    digest = hashlib.sha256()
    header = [FORMAT, list(classes), order_seed, rows_per_group]
    digest.update(json.dumps(header).encode())
    shards: list[Shard] = []
    for split in (*LABELED_SPLITS, POOL):
        members = [row for row in rows if row.split == split]
        members = [members[i] for i in seeded_order([row.image_id for row in members], order_seed)]
        for row in members:
            image_hash = hashlib.sha256(row.image).hexdigest()
            digest.update(
                json.dumps([row.image_id, image_hash, row.label, split, row.group]).encode()
            )
        shards += _write_split(storage, split, members, rows_per_group, groups_per_shard)
    pool = sum(row.split == POOL for row in rows)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        classes=tuple(classes),
        counts={
            "train": _class_counts(rows, "train", classes),
            "val": _class_counts(rows, "val", classes),
            "test": _class_counts(rows, "test", classes),
        },
        pool=pool,
        pool_unit=pool if pool_unit is None else pool_unit,
        fingerprint=digest.hexdigest(),
        license=license,
        source=source,
        order_seed=order_seed,
        shards=tuple(shards),
    )
    storage.write(MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    return Dataset(storage, manifest)


def _class_counts(
    rows: Iterable[StoredImage], split: str, classes: Sequence[str]
) -> dict[str, int]:
    found = Counter(row.label for row in rows if row.split == split)
    return {name: found[index] for index, name in enumerate(classes)}


def _write_split(
    storage: Storage,
    split: Split,
    rows: Sequence[StoredImage],
    rows_per_group: int,
    groups_per_shard: int,
) -> list[Shard]:
    shards = []
    rows_per_shard = rows_per_group * groups_per_shard
    for number, start in enumerate(range(0, len(rows), rows_per_shard)):
        part = [
            {
                "image_id": row.image_id,
                "image": {"bytes": row.image, "path": None},
                "label": row.label,
                "group": row.group,
            }
            for row in rows[start : start + rows_per_shard]
        ]
        shards.append(write_shard(storage, split, number, part, COLUMNS, rows_per_group))
    return shards


def write_shard(
    storage: Storage,
    split: Split,
    number: int,
    rows: Sequence[dict[str, Any]],
    schema: pa.Schema,
    rows_per_group: int,
) -> Shard:
    """Writes one shard's rows, in this order, and returns its entry for the manifest."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    # images are compressed already
    pq.write_table(table, buffer, row_group_size=rows_per_group, compression="none")
    content = buffer.getvalue()
    file = f"{split}-{number:05d}.parquet"
    storage.write(file, content)
    sizes = [min(rows_per_group, len(rows) - i) for i in range(0, len(rows), rows_per_group)]
    return Shard(
        file=file,
        split=split,
        row_groups=tuple(sizes),
        sha256=hashlib.sha256(content).hexdigest(),
    )
