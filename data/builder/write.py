"""Writes a dataset: shards in the seeded order, and the manifest last."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.schema import (
    FORMAT,
    LABELED_SPLITS,
    MANIFEST,
    POOL,
    Dataset,
    Manifest,
    Shard,
    Split,
    columns_of,
)
from semigrid.data.splits import seeded_order
from semigrid.data.storage import Storage, open_storage


@dataclass(frozen=True)
class StoredImage:
    """An image to store: its file bytes, class index (None in the pool), split and group."""

    image_id: str
    image: bytes
    label: int | None
    split: Split
    group: str


class ShardWriter:
    """Collects rows in order, and writes a shard of a split whenever it is full."""

    def __init__(
        self,
        storage: Storage,
        rows_per_group: int,
        groups_per_shard: int,
        extra_columns: Sequence[str] = (),
    ):
        self.storage, self.schema = storage, columns_of(extra_columns)
        self.rows_per_group, self.rows_per_shard = rows_per_group, rows_per_group * groups_per_shard
        self.pending: dict[Split, list[dict[str, Any]]] = {s: [] for s in (*LABELED_SPLITS, POOL)}
        self.shards: dict[Split, list[Shard]] = {split: [] for split in self.pending}

    def add(self, row: StoredImage, extra: Mapping[str, str | None] | None = None) -> None:
        image = {"bytes": row.image, "path": None}
        facts = {"image_id": row.image_id, "image": image, "label": row.label, "group": row.group}
        rows = self.pending[row.split]
        rows.append({**facts, **(extra or {})})
        if len(rows) == self.rows_per_shard:
            self._flush(row.split)

    def _flush(self, split: Split) -> None:
        rows, per_group = self.pending[split], self.rows_per_group
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=self.schema)
        # images are already compressed
        pq.write_table(table, buffer, row_group_size=per_group, compression="none")
        content = buffer.getvalue()
        file = f"{split}-{len(self.shards[split]):05d}.parquet"
        self.storage.write(file, content)
        groups = tuple(min(per_group, len(rows) - i) for i in range(0, len(rows), per_group))
        sha256 = hashlib.sha256(content).hexdigest()
        self.shards[split].append(Shard(file=file, split=split, row_groups=groups, sha256=sha256))
        self.pending[split] = []

    def finish(self) -> tuple[Shard, ...]:
        """Writes the remaining rows, and returns all shards, split by split."""
        for split in [split for split, rows in self.pending.items() if rows]:
            self._flush(split)
        return tuple(shard for shards in self.shards.values() for shard in shards)


def manifest_of(
    placed: Iterable[tuple[Split, int | None]],
    classes: Collection[str],
    pool_unit: int | None,
    **facts: Any,
) -> Manifest:
    """The manifest of images with these splits and class indices; ``facts`` are other fields.

    ``pool_unit`` is the number of images at the multiplier 100 %, by default the whole pool.
    """
    counts = Counter(placed)
    pool = counts[POOL, None]
    return Manifest(
        format=FORMAT,
        classes=tuple(classes),
        counts={
            split: {name: counts[split, index] for index, name in enumerate(classes)}
            for split in ("train", "val", "test")
        },
        pool=pool,
        pool_unit=pool if pool_unit is None else pool_unit,
        **facts,
    )


def write_manifest(storage: Storage, manifest: Manifest) -> Dataset:
    """Writes ``dataset.json``, without which a folder is not a dataset."""
    storage.write(MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    return Dataset(storage, manifest)


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
    """Writes images in memory as a dataset. Ids must be unique, and labels indices of classes."""
    storage = open_storage(uri)
    writer = ShardWriter(storage, rows_per_group, groups_per_shard)
    header = [FORMAT, list(classes), order_seed, rows_per_group]
    digest = hashlib.sha256(json.dumps(header).encode())
    for split in (*LABELED_SPLITS, POOL):
        members = [row for row in rows if row.split == split]
        for place in seeded_order([row.image_id for row in members], order_seed):
            row = members[place]
            image_hash = hashlib.sha256(row.image).hexdigest()
            facts = [row.image_id, image_hash, row.label, split, row.group]
            digest.update(json.dumps(facts).encode())
            writer.add(row)
    manifest = manifest_of(
        ((row.split, row.label) for row in rows),
        classes,
        pool_unit,
        name=name,
        fingerprint=digest.hexdigest(),
        license=license,
        source=source,
        order_seed=order_seed,
        shards=writer.finish(),
    )
    return write_manifest(storage, manifest)
