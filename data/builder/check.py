"""Compares a dataset with its manifest, down to the bytes."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.schema import POOL, Dataset, columns_of
from semigrid.data.views.render import BrokenImageError, decode


def check_dataset(
    dataset: Dataset, *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Reads every shard, decodes every image, and returns each problem with its shard.

    ``progress`` gets the number of shards read and the number of all shards.
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
        try:
            file = pq.ParquetFile(io.BytesIO(content))
            dataset.check_file(shard, file, columns_of(manifest.extra_columns).names)
            batches = file.iter_batches(batch_size=256)
            for row in (row for rows in batches for row in rows.to_pylist()):
                name, group = row["image_id"], row["group"]
                counts[shard.split, row["label"]] += 1
                if name in seen:
                    problems.append(f"{shard.file}: the image {name!r} occurs a second time")
                seen.add(name)
                other = split_of.setdefault(group, shard.split)
                if other != shard.split:
                    problems.append(f"{shard.file}: the group {group!r} is also in {other}")
                try:
                    decode((row["image"] or {}).get("bytes") or b"", name)
                except BrokenImageError as error:
                    problems.append(f"{shard.file}: {error}")
        except (OSError, ValueError, pa.ArrowException) as error:
            problems.append(f"{shard.file}: cannot be read: {error}; build the dataset again")
    progress(len(manifest.shards), len(manifest.shards))
    if problems:
        return problems
    stated: dict[tuple[str, int | None], int] = {(POOL, None): manifest.pool}
    for split, by_class in manifest.counts.items():
        stated |= {(split, i): by_class[name] for i, name in enumerate(manifest.classes)}
    return [
        f"{split}: {counts[split, label]} images{'' if label is None else f' of class {label}'}, "
        f"the manifest says {stated.get((split, label), 0)}"
        for split, label in sorted({*counts, *stated}, key=str)
        if counts[split, label] != stated.get((split, label), 0)
    ]
