"""Builds a dataset from a source's images in three steps: clean, curate, write.

Chunks of images are cleaned in parallel into a folder inside the dataset's. Curation then decides
from facts about all images, without their bytes, which of them to keep and in which split. Finally
shards are written in the seeded order, one bucket of the order at a time, and the manifest last.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from semigrid.data.builder.chunks import (
    Chunk,
    Cleaned,
    chunks_of,
    read_bucket,
    read_without_content,
    run_chunks,
)
from semigrid.data.builder.clean import CLEAN_VERSION, JPEG_QUALITY
from semigrid.data.builder.curate import Curation, Facts, curate
from semigrid.data.builder.request import BuildRequest
from semigrid.data.builder.write import ROWS_PER_GROUP, StoredImage, write_in_order
from semigrid.data.crowd.consensus import Audit
from semigrid.data.errors import InputError
from semigrid.data.schema import FORMAT, LABELED_SPLITS, MANIFEST, POOL, VOTES, Dataset, columns_of
from semigrid.data.sources.items import Item
from semigrid.data.sources.patterns.spec import LICENSE
from semigrid.data.splits import order_key
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import base_name, shown

REPORT = "report.json"
BUILDING = ".building"


def build_dataset(
    uri: str,
    items: Sequence[Item],
    request: BuildRequest,
    *,
    audit: Audit | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Dataset, dict[str, Any]]:
    """Builds a dataset at ``uri`` and returns it with the report that lies beside it.

    Args:
        audit: the audit of the crowd's answers, for the report.
        processes: how many processes clean images; with one it is this one.
        progress: gets the number of images cleaned and the number of all images.

    Raises:
        InputError: ``uri`` has a dataset already, or the images cannot form one.
    """
    storage = open_storage(uri)
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
    chunks = chunks_of(storage.folder(BUILDING), items, request)
    run_chunks(chunks, processes, progress)
    cleaned = sorted(read_without_content(chunks), key=lambda c: c.number)
    curation = curate(
        [
            Facts(item.image_id, item.label, item.group or item.image_id, c.pixels)
            for item, c in zip(items, cleaned, strict=True)
            if c.problem is None
        ],
        seed=request.seed,
        val_share=request.val_share,
        test_share=request.test_share,
        classes=request.classes,
    )
    report = _report(items, cleaned, curation, audit)
    storage.write(REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    kept = {image.image_id: image for image in curation.images}
    slices = _slices([item for item in items if item.image_id in kept])
    votes = any(item.votes is not None for item in items)
    made = request.patterns
    dataset = write_in_order(
        storage,
        _images(items, chunks, curation, request.seed, slices, votes),
        classes=curation.classes,
        pool_unit=request.pool_unit or (made.pool_unit if made else None),
        slices=slices,
        votes=votes,
        name=request.name or base_name(uri),
        fingerprint=_fingerprint(items, cleaned, curation, request, slices),
        license=request.license or (LICENSE if made else "unknown"),
        source=made.source if made else shown(request.source),
        order_seed=request.seed,
    )
    storage.delete(BUILDING)
    return dataset, report


def _slices(items: Sequence[Item]) -> list[str]:
    """Names of the slices, sorted. Raises ``InputError`` for one that is a column already."""
    slices = sorted({name for item in items for name in item.slices})
    taken = sorted({*columns_of().names, VOTES, "probabilities"} & {*slices})
    if taken:
        raise InputError(
            f"a slice cannot be named {taken[0]!r}: datasets have a column of that name"
        )
    return slices


def _images(
    items: Sequence[Item],
    chunks: Sequence[Chunk],
    curation: Curation,
    seed: int,
    slices: Sequence[str],
    votes: bool,
) -> Iterator[StoredImage]:
    """The images kept in the seeded order, with a bucket in memory."""
    kept = {image.image_id: image for image in curation.images}
    index: dict[str | None, int] = {name: i for i, name in enumerate(curation.classes)}
    for bucket in range(chunks[0].buckets):
        rows = [(items[c.number], c) for c in read_bucket(chunks, bucket)]
        for item, cleaned in sorted(rows, key=lambda row: order_key(row[0].image_id, seed)):
            if (image := kept.get(item.image_id)) is None:
                continue
            extra = {name: item.slices.get(name) for name in slices}
            if votes:
                cast = item.votes
                extra[VOTES] = None if cast is None else json.dumps(dict(cast), sort_keys=True)
            label = index.get(image.label)
            yield StoredImage(
                item.image_id, cleaned.content, label, image.split, image.group, extra
            )


def _fingerprint(
    items: Sequence[Item],
    cleaned: Sequence[Cleaned],
    curation: Curation,
    request: BuildRequest,
    slices: Sequence[str],
) -> str:
    """SHA-256 of the sources' bytes, cleaning settings, labels, splits, slices and votes.

    It leaves out the bytes of re-encoded images, since encoders differ between machines. The
    ``identity`` of an item, if it has one, replaces its bytes.
    """
    clean = {"max_pixels": request.max_pixels, "shorter_side": request.shorter_side}
    header: list[Any] = [FORMAT, CLEAN_VERSION, clean | {"jpeg_quality": JPEG_QUALITY}]
    header += [request.seed, list(curation.classes), ROWS_PER_GROUP, list(slices)]
    digest = hashlib.sha256(json.dumps(header).encode())
    sources = {i.image_id: (i, c.source) for i, c in zip(items, cleaned, strict=True)}
    index: dict[str | None, int] = {name: i for i, name in enumerate(curation.classes)}
    for image in curation.images:  # sorted by id
        item, source = sources[image.image_id]
        row: list[Any] = [image.image_id, source, index.get(image.label), image.split, image.group]
        row += [item.slices.get(name) for name in slices]
        row += [None if item.votes is None else sorted(item.votes.items())]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _report(
    items: Sequence[Item], cleaned: Sequence[Cleaned], curation: Curation, audit: Audit | None
) -> dict[str, Any]:
    """Numbers of images read and kept, and the reasons for leaving others out."""
    splits = Counter(image.split for image in curation.images)
    return {
        "images": len(items),
        "kept": len(curation.images),
        "splits": {split: splits[split] for split in (*LABELED_SPLITS, POOL)},
        "quarantined": {items[c.number].image_id: c.problem for c in cleaned if c.problem},
        "duplicates": curation.duplicates,
        "conflicts": curation.conflicts,
        "beside_labeled": curation.beside_labeled,
        "changed": dict(Counter(why for c in cleaned for why in c.changed or ())),
        "answers": None if audit is None else asdict(audit),
    }
