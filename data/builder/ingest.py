"""Builds a dataset from a source's images in three steps: clean, curate, write.

Chunks of images are cleaned in parallel into a folder inside the dataset's. Curation then decides
from facts about all images, without their bytes, which of them to keep and in which split. Finally
shards are written in the seeded order, one bucket of the order at a time, and the manifest last.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from semigrid.data.builder.chunks import (
    Chunk,
    ChunkRunner,
    Cleaned,
    chunks_of,
    one_by_one,
    read_bucket,
    read_without_content,
    run_chunks,
)
from semigrid.data.builder.clean import CLEAN_VERSION, CleanSettings
from semigrid.data.builder.curate import Curation, Facts, curate
from semigrid.data.builder.write import ShardWriter, StoredImage, manifest_of, write_manifest
from semigrid.data.crowd.audit import Audit, Vote
from semigrid.data.errors import InputError
from semigrid.data.schema import FORMAT, MANIFEST, POOL, VOTES, Dataset, Manifest, Shard, columns_of
from semigrid.data.sources.items import Item
from semigrid.data.splits import order_key
from semigrid.data.storage import Storage, open_storage

REPORT = "report.json"
BUILDING = ".building"


@dataclass(frozen=True)
class BuildSettings:
    """How to build a dataset. ``chunk_images`` and ``bucket_images`` do not change the result.

    Writing holds the images of a bucket and of a shard in memory.
    """

    name: str
    license: str
    source: str
    seed: int = 0
    val_share: float = 0.15
    test_share: float = 0.10
    classes: tuple[str, ...] | None = None
    pool_unit: int | None = None
    clean: CleanSettings = field(default_factory=CleanSettings)
    rows_per_group: int = 256
    groups_per_shard: int = 32
    chunk_images: int = 512
    bucket_images: int = 8192


def build_dataset(
    uri: str,
    items: Sequence[Item],
    settings: BuildSettings,
    *,
    votes: Mapping[str, Vote] | None = None,
    audit: Audit | None = None,
    workers: ChunkRunner = one_by_one,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Dataset, dict[str, Any]]:
    """Builds a dataset at ``uri`` and returns it with the report that lies beside it.

    Args:
        votes: the crowd's votes by image id, stored with the images.
        audit: the audit of the answers, for the report.
        workers: cleans the chunks, by default in this process.
        progress: gets the number of images cleaned and the number of all images.

    Raises:
        InputError: ``uri`` has a dataset already, or the images cannot form one.
    """
    storage, votes = open_storage(uri), votes or {}
    if storage.exists(MANIFEST):
        raise InputError(f"{uri}: there is a dataset here already; give another folder")
    if not items:
        raise InputError("the source has no images")
    repeated = [i for i, n in Counter(item.image_id for item in items).items() if n > 1]
    if repeated:
        raise InputError(
            f"{len(repeated)} image ids are not unique, the first is {min(repeated)!r}"
        )
    items = sorted(items, key=lambda item: item.image_id)
    sizes = settings.chunk_images, settings.bucket_images
    chunks = chunks_of(storage.folder(BUILDING), items, settings.clean, settings.seed, *sizes)
    run_chunks(chunks, workers, progress)
    cleaned = sorted(read_without_content(chunks), key=lambda c: c.number)
    curation = curate(
        [
            Facts(item.image_id, item.label, item.group or item.image_id, c.pixels)
            for item, c in zip(items, cleaned, strict=True)
            if c.problem is None
        ],
        seed=settings.seed,
        val_share=settings.val_share,
        test_share=settings.test_share,
        classes=settings.classes,
    )
    kept = {image.image_id for image in curation.images}
    slices = _slices([item for item in items if item.image_id in kept])
    manifest = manifest_of(
        ((image.split, image.label) for image in curation.images),
        curation.classes,
        settings.pool_unit,
        name=settings.name,
        fingerprint=_fingerprint(items, cleaned, curation, settings, slices, votes),
        license=settings.license,
        source=settings.source,
        order_seed=settings.seed,
        shards=_write_shards(storage, items, chunks, curation, settings, slices, votes),
        slices=slices,
        votes=bool(votes),
    )
    report = _report(items, cleaned, curation, manifest, audit)
    storage.write(REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    dataset = write_manifest(storage, manifest)
    storage.delete(BUILDING)
    return dataset, report


def _slices(items: Sequence[Item]) -> tuple[str, ...]:
    """Names of the slices, sorted. Raises ``InputError`` for one that is a column already."""
    slices = sorted({name for item in items for name in item.slices})
    taken = sorted({*columns_of().names, VOTES, "probabilities"} & {*slices})
    if taken:
        raise InputError(
            f"a slice cannot be named {taken[0]!r}: datasets have a column of that name"
        )
    return tuple(slices)


def _write_shards(
    storage: Storage,
    items: Sequence[Item],
    chunks: Sequence[Chunk],
    curation: Curation,
    settings: BuildSettings,
    slices: Sequence[str],
    votes: Mapping[str, Vote],
) -> tuple[Shard, ...]:
    placed = {image.image_id: image for image in curation.images}
    extra_columns = [*slices, *([VOTES] if votes else [])]
    groups = settings.rows_per_group, settings.groups_per_shard
    writer = ShardWriter(storage, *groups, extra_columns)
    for bucket in range(chunks[0].buckets):
        rows = [(items[c.number], c) for c in read_bucket(chunks, bucket)]
        rows.sort(key=lambda row: order_key(row[0].image_id, settings.seed))
        for item, cleaned in rows:
            if (image := placed.get(item.image_id)) is None:
                continue
            extra = {name: item.slices.get(name) for name in slices}
            if votes:
                vote = votes.get(item.image_id)
                extra[VOTES] = json.dumps(dict(vote.votes), sort_keys=True) if vote else None
            stored = image.image_id, cleaned.content, image.label, image.split, image.group
            writer.add(StoredImage(*stored), extra)
    return writer.finish()


def _fingerprint(
    items: Sequence[Item],
    cleaned: Sequence[Cleaned],
    curation: Curation,
    settings: BuildSettings,
    slices: Sequence[str],
    votes: Mapping[str, Vote],
) -> str:
    """SHA-256 of the sources' bytes, cleaning settings, labels, splits, slices and votes.

    It leaves out the bytes of re-encoded images, since encoders differ between machines. The
    ``identity`` of an item, if it has one, replaces its bytes.
    """
    header = [FORMAT, CLEAN_VERSION, asdict(settings.clean), settings.seed]
    header += [list(curation.classes), settings.rows_per_group, list(slices)]
    digest = hashlib.sha256(json.dumps(header).encode())
    sources = {i.image_id: (i, c.source) for i, c in zip(items, cleaned, strict=True)}
    for image in curation.images:  # sorted by id
        item, source = sources[image.image_id]
        vote = votes.get(image.image_id)
        row: list[Any] = [image.image_id, source, image.label, image.split, image.group]
        row += [item.slices.get(name) for name in slices]
        row += [None if vote is None else sorted(vote.votes.items())]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _report(
    items: Sequence[Item],
    cleaned: Sequence[Cleaned],
    curation: Curation,
    manifest: Manifest,
    audit: Audit | None,
) -> dict[str, Any]:
    """Numbers of images read and kept, and the reasons for leaving others out."""
    splits = {split: sum(counts.values()) for split, counts in manifest.counts.items()}
    return {
        "images": len(items),
        "kept": len(curation.images),
        "splits": {**splits, POOL: manifest.pool},
        "quarantined": {items[c.number].image_id: c.problem for c in cleaned if c.problem},
        "duplicates": curation.duplicates,
        "conflicts": curation.conflicts,
        "beside_labeled": curation.beside_labeled,
        "changed": dict(Counter(why for c in cleaned for why in c.changed)),
        "answers": None if audit is None else asdict(audit),
    }
