"""Writes a dataset: shards in the seeded order, and the manifest last."""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.schema import (
    FORMAT,
    LABELED_SPLITS,
    MANIFEST,
    POOL,
    VOTES,
    Dataset,
    Manifest,
    Shard,
    Split,
    columns_of,
)
from semigrid.data.splits import order_key
from semigrid.data.storage import Storage, open_storage

ROWS_PER_GROUP, GROUPS_PER_SHARD = 256, 32
SHARD_NAME = re.compile(rf"({'|'.join((*LABELED_SPLITS, POOL))})-\d{{5,}}\.parquet")


@dataclass(frozen=True)
class StoredImage:
    """An image to store: its file bytes, class index (None in the pool), split and group.

    ``extra`` has the values of further columns: the slices and the votes.
    """

    image_id: str
    image: bytes
    label: int | None
    split: Split
    group: str
    extra: Mapping[str, str | None] = field(default_factory=dict)


def shard_names(images: Mapping[Split, int]) -> list[str]:
    """Names of the files that ``write_in_order`` makes of so many images of each split."""
    rows = ROWS_PER_GROUP * GROUPS_PER_SHARD
    return [_shard_name(s, number) for s, n in images.items() for number in range(-(-n // rows))]


def _shard_name(split: Split, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


def write_in_order(
    storage: Storage,
    images: Iterable[StoredImage],
    *,
    classes: Sequence[str],
    pool_unit: int | None = None,
    slices: Sequence[str] = (),
    votes: bool = False,
    rows_per_group: int = ROWS_PER_GROUP,
    groups_per_shard: int = GROUPS_PER_SHARD,
    **facts: Any,
) -> Dataset:
    """Writes images as a dataset, each split's in the order in which they come.

    It holds a shard of each split in memory. Without its manifest, ``dataset.json``, a folder is
    not a dataset.

    Args:
        pool_unit: number of images at the multiplier 100 %, by default the whole pool.
        facts: other fields of the manifest.
    """
    schema = columns_of([*slices, *([VOTES] if votes else [])])
    pending: dict[Split, list[dict[str, Any]]] = {split: [] for split in (*LABELED_SPLITS, POOL)}
    shards: dict[Split, list[Shard]] = {split: [] for split in pending}
    counts: Counter[tuple[Split, int | None]] = Counter()

    def write_shard(split: Split) -> None:
        rows, pending[split] = pending[split], []
        table, buffer = pa.Table.from_pylist(rows, schema=schema), io.BytesIO()
        # images are already compressed
        pq.write_table(table, buffer, row_group_size=rows_per_group, compression="none")
        content, file = buffer.getvalue(), _shard_name(split, len(shards[split]))
        storage.write(file, content)
        starts = range(0, len(rows), rows_per_group)
        groups = tuple(min(rows_per_group, len(rows) - start) for start in starts)
        sha256 = hashlib.sha256(content).hexdigest()
        shards[split].append(Shard(file=file, split=split, row_groups=groups, sha256=sha256))

    for image in images:
        counts[image.split, image.label] += 1
        row = {"image_id": image.image_id, "label": image.label, "group": image.group}
        rows = pending[image.split]
        rows.append({**row, "image": {"bytes": image.image, "path": None}, **image.extra})
        if len(rows) == rows_per_group * groups_per_shard:
            write_shard(image.split)
    for split in [split for split, rows in pending.items() if rows]:
        write_shard(split)
    manifest = Manifest(
        format=FORMAT,
        classes=tuple(classes),
        counts={
            split: {name: counts[split, index] for index, name in enumerate(classes)}
            for split in ("train", "val", "test")
        },
        pool=counts[POOL, None],
        pool_unit=pool_unit or counts[POOL, None],
        shards=tuple(shard for of_split in shards.values() for shard in of_split),
        slices=tuple(slices),
        votes=votes,
        **facts,
    )
    storage.write(MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    return Dataset(storage, manifest)


def write_dataset(
    uri: str,
    rows: Sequence[StoredImage],
    *,
    classes: Sequence[str],
    order_seed: int = 0,
    rows_per_group: int = ROWS_PER_GROUP,
    **facts: Any,
) -> Dataset:
    """Writes images in memory as a dataset. Ids must be unique, and labels indices of classes.

    ``facts`` go to ``write_in_order``.
    """
    splits = [*LABELED_SPLITS, POOL]
    rows = sorted(
        rows, key=lambda row: (splits.index(row.split), order_key(row.image_id, order_seed))
    )
    header = [FORMAT, list(classes), order_seed, rows_per_group]
    digest = hashlib.sha256(json.dumps(header).encode())
    for row in rows:
        image_hash = hashlib.sha256(row.image).hexdigest()
        stored = [row.image_id, image_hash, row.label, row.split, row.group]
        digest.update(json.dumps(stored).encode())
    return write_in_order(
        open_storage(uri),
        rows,
        classes=classes,
        rows_per_group=rows_per_group,
        fingerprint=digest.hexdigest(),
        order_seed=order_seed,
        **facts,
    )
