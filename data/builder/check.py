"""Whether a dataset is what its manifest says, down to the bytes."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq

from semigrid.data.schema import POOL, Dataset, columns_of
from semigrid.data.views.render import BrokenImageError, decode


def check_dataset(
    dataset: Dataset,
    *,
    images: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Reads every shard and returns what is wrong, each problem with its shard or image.

    Args:
        images: decode every image too.
        progress: is told how many of the shards have been read.
    """
    manifest = dataset.manifest
    problems: list[str] = []
    seen: set[str] = set()
    split_of: dict[str, str] = {}
    counts: Counter[tuple[str, int | None]] = Counter()
    for number, shard in enumerate(manifest.shards):
        progress(number, len(manifest.shards))
        content = dataset.storage.read(shard.file)
        actual = hashlib.sha256(content).hexdigest()
        if actual != shard.sha256:
            problems.append(
                f"{shard.file}: its bytes have the SHA-256 {actual[:12]}…, the manifest says "
                f"{shard.sha256[:12]}…; copy it here again or build the dataset again"
            )
            continue
        file = pq.ParquetFile(io.BytesIO(content))
        groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        if groups != shard.row_groups:
            problems.append(f"{shard.file}: row groups of {groups} rows, not {shard.row_groups}")
        expected = columns_of(manifest.extra_columns)
        if not file.schema_arrow.equals(expected):
            problems.append(f"{shard.file}: columns {file.schema_arrow.names}: {expected.names}")
            continue
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                name, label = row["image_id"], row["label"]
                if name in seen:
                    problems.append(f"{shard.file}: the image {name!r} stands in it a second time")
                seen.add(name)
                counts[shard.split, label] += 1
                other = split_of.setdefault(row["group"], shard.split)
                if other != shard.split:
                    problems.append(
                        f"{shard.file}: the group {row['group']!r} is in {other} as well"
                    )
                if images:
                    try:
                        decode(row["image"]["bytes"], name)
                    except BrokenImageError as error:
                        problems.append(f"{shard.file}: {error}")
    progress(len(manifest.shards), len(manifest.shards))
    return problems + ([] if problems else _count_problems(dataset, counts))


def _count_problems(dataset: Dataset, counts: "Counter[tuple[str, int | None]]") -> list[str]:
    manifest = dataset.manifest
    expected: dict[tuple[str, int | None], int] = {(POOL, None): manifest.pool}
    for split, by_class in manifest.counts.items():
        for index, name in enumerate(manifest.classes):
            expected[split, index] = by_class[name]
    problems = []
    for key in sorted({*counts, *expected}, key=str):
        count, wanted = counts[key], expected.get(key, 0)
        if count != wanted:
            of = "" if key[1] is None else f" of class {key[1]}"
            problems.append(f"{key[0]}: {count} images{of}, the manifest says {wanted}")
    return problems
