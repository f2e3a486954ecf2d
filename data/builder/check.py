"""Compares a dataset with its manifest, down to the bytes."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator

import pyarrow.parquet as pq

from semigrid.data.schema import POOL, Dataset, Shard, columns_of
from semigrid.data.views.render import BrokenImageError, decode


class _Check:
    """Image ids, each group's split, and images by split and class in the shards read so far."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.seen: set[str] = set()
        self.split_of: dict[str, str] = {}
        self.counts: Counter[tuple[str, int | None]] = Counter()

    def shard(self, shard: Shard) -> Iterator[str]:
        content = self.dataset.storage.read(shard.file)
        actual = hashlib.sha256(content).hexdigest()
        if actual != shard.sha256:
            yield (
                f"its bytes have the SHA-256 {actual[:12]}…, the manifest says "
                f"{shard.sha256[:12]}…; copy it here again or build the dataset again"
            )
            return
        file = pq.ParquetFile(io.BytesIO(content))
        groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        if groups != shard.row_groups:
            yield f"row groups of {groups} rows, not {shard.row_groups}"
        expected = columns_of(self.dataset.manifest.extra_columns)
        if not file.schema_arrow.equals(expected):
            yield f"columns {file.schema_arrow.names}: {expected.names}"
            return
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield from self.row(shard.split, row["image_id"], row["label"], row["group"])
                try:
                    decode(row["image"]["bytes"], row["image_id"])
                except BrokenImageError as error:
                    yield str(error)

    def row(self, split: str, name: str, label: int | None, group: str) -> Iterator[str]:
        if name in self.seen:
            yield f"the image {name!r} occurs a second time"
        self.seen.add(name)
        self.counts[split, label] += 1
        other = self.split_of.setdefault(group, split)
        if other != split:
            yield f"the group {group!r} is also in {other}"

    def totals(self) -> Iterator[str]:
        manifest = self.dataset.manifest
        expected: dict[tuple[str, int | None], int] = {(POOL, None): manifest.pool}
        for split, by_class in manifest.counts.items():
            for index, name in enumerate(manifest.classes):
                expected[split, index] = by_class[name]
        for key in sorted({*self.counts, *expected}, key=str):
            count, wanted = self.counts[key], expected.get(key, 0)
            if count != wanted:
                of = "" if key[1] is None else f" of class {key[1]}"
                yield f"{key[0]}: {count} images{of}, the manifest says {wanted}"


def check_dataset(
    dataset: Dataset, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Reads every shard, decodes every image, and returns each problem with its shard.

    ``progress`` gets the number of shards read and the number of all shards.
    """
    check, shards = _Check(dataset), dataset.manifest.shards
    problems = []
    for number, shard in enumerate(shards, 1):
        problems += [f"{shard.file}: {problem}" for problem in check.shard(shard)]
        progress(number, len(shards))
    return problems or list(check.totals())
