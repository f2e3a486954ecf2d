"""Builds a dataset from a source's images in three steps: clean, curate, write.

Chunks of images are cleaned in parallel into a folder inside the dataset's. Curation then decides
from facts about all images, without their bytes, which of them to keep and in which split. Finally
shards are written in the seeded order, one bucket of the order at a time, and the manifest last.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from http import HTTPStatus
from typing import Any

from semigrid.data.builder.chunks import (
    Cleaned,
    chunks_of,
    read_bucket,
    read_without_content,
    run_chunks,
)
from semigrid.data.builder.clean import CLEAN_VERSION, JPEG_QUALITY
from semigrid.data.builder.curate import Curation, Facts, curate
from semigrid.data.builder.place import BUILDING, REPORT, building_in
from semigrid.data.builder.report import problem_kind
from semigrid.data.builder.request import BuildRequest
from semigrid.data.builder.write import ROWS_PER_GROUP, StoredImage, shard_names, write_in_order
from semigrid.data.crowd.consensus import Audit
from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.json_text import json_text
from semigrid.data.precision import classes_without_val, precision_of
from semigrid.data.redact import shown
from semigrid.data.schema import FORMAT, LABELED_SPLITS, POOL, VOTES, Dataset, columns_of
from semigrid.data.sources.items import Item, readable
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.sources.patterns.spec import LICENSE
from semigrid.data.splits import order_key
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import WEB, base_name
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.data.storage.web import host_of


def build_dataset(
    uri: str,
    items: Sequence[Item],
    request: BuildRequest,
    *,
    audit: Audit | None = None,
    left_out: LeftOut | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Dataset, dict[str, Any]]:
    """Builds a dataset at ``uri`` and returns it with the report that lies beside it.

    Args:
        audit: the audit of the crowd's answers, for the report.
        left_out: what the source holds beside its images, for the report.
        processes: how many processes clean images; with one it is this one.
        progress: gets the number of images cleaned and the number of all images.

    Raises:
        StorageGoneError: storage stays away, or a web server busy, for longer than is waited.
        InputError: ``uri`` is neither new nor empty nor that of an unfinished build, another build
            is at work there, or the images cannot form a dataset.
    """
    if not items:
        raise InputError("the source has no images")
    items = sorted(map(_as_text, items), key=lambda item: item.image_id)
    repeated = [i for i, n in Counter(item.image_id for item in items).items() if n > 1]
    if repeated:
        raise InputError(
            f"{len(repeated)} image ids are not unique, the first is {min(repeated)!r}"
        )
    # whether there can be a dataset is said now, not after hours of cleaning
    facts = (_facts(item, item.image_id) for item in items)
    classes = curate([*facts], **_curation(request)).classes
    _slices(items)
    with building_in(uri) as place:
        chunks = chunks_of(place.storage.folder(BUILDING), items, request)

        def cleaned_so_far(done: int, total: int) -> None:
            place.confirm()
            progress(done, total)

        files = run_chunks(chunks, processes, cleaned_so_far)
        cleaned = sorted(read_without_content(files), key=lambda c: c.number)
        _check_not_busy(items, cleaned)
        _check_usable(items, cleaned, classes)
        pairs = zip(items, cleaned, strict=True)
        curation = curate(
            [_facts(item, c.pixels) for item, c in pairs if c.problem is None],
            **_curation(request),
        )
        report = _report(items, cleaned, curation, request, audit, left_out or LeftOut())
        place.claim([REPORT, *shard_names(report["splits"])])
        # "backslashreplace" makes JSON's own escapes of what is not text
        text = json_text(report, ascii=False) + "\n"
        place.storage.write(REPORT, text.encode(errors="backslashreplace"))
        kept = {image.image_id: image for image in curation.images}
        slices = _slices([item for item in items if item.image_id in kept])
        votes = any(item.votes is not None for item in items)
        made = request.patterns
        dataset = write_in_order(
            place.storage,
            _images(items, chunks[0].buckets, files, curation, request.seed, slices, votes),
            classes=curation.classes,
            pool_unit=request.pool_unit or (made.pool_unit if made else None),
            slices=slices,
            votes=votes,
            name=readable(request.name or base_name(uri)),
            fingerprint=_fingerprint(items, cleaned, curation, request, slices),
            license=readable(request.license or (LICENSE if made else "unknown")),
            source=made.source if made else readable(shown(request.source)),
            order_seed=request.seed,
        )
        place.finish()
    return Dataset(open_storage(uri), dataset.manifest), report


def _as_text(item: Item) -> Item:
    """The item with names that can be written: file names, and others, need not be text."""
    return replace(
        item,
        image_id=readable(item.image_id),
        label=None if item.label is None else readable(item.label),
        group=None if item.group is None else readable(item.group),
        slices={readable(name): readable(value) for name, value in item.slices.items()},
        votes=item.votes and {readable(label): count for label, count in item.votes.items()},
    )


def _facts(item: Item, pixels: str) -> Facts:
    # what a split leaves unlabelled cannot be evaluated there: it joins the pool
    label = None if item.split == POOL else item.label
    given = POOL if item.split is not None and label is None else item.split
    return Facts(item.image_id, label, item.group or item.image_id, pixels, given=given)


def _curation(request: BuildRequest) -> dict[str, Any]:
    keys = {"seed", "val_share", "test_share", "classes", "min_per_class", "rare"}
    return request.model_dump(include=keys)


def _check_not_busy(items: Sequence[Item], cleaned: Sequence[Cleaned]) -> None:
    """Raises ``StorageGoneError`` if servers were too busy for some of their images.

    A server that answers 503 to every request is one of the dead ones that lists contain. Without
    patience, nothing is missed.
    """
    busy = [c for c in cleaned if c.busy is not None]
    alive = {_host(items[c.number]) for c in cleaned if c.source is not None} if busy else set()
    missing = [
        items[c.number]
        for c in busy
        if c.busy == HTTPStatus.TOO_MANY_REQUESTS or _host(items[c.number]) in alive
    ]
    if not missing or storage_patience() == 0:
        return
    of_host = Counter(map(_host, missing)).most_common()
    hosts = ", ".join(f"{host} ({count:,})" for host, count in of_host[:5])
    more = f" and {len(of_host) - 5:,} others" if len(of_host) > 5 else ""
    raise StorageGoneError(
        f"{len(missing):,} of {len(items):,} images are missing, since their servers were busy: "
        f"{hosts}{more}; the first is {missing[0].image_id}; what was read is kept: run the same "
        f"command again later ({PATIENCE} sets how many seconds to wait; with 0 they are set aside)"
    )


def _host(item: Item) -> str | None:
    is_web = item.uri.partition("://")[0].lower() in WEB
    return host_of(item.uri) if is_web else None


def _check_usable(
    items: Sequence[Item], cleaned: Sequence[Cleaned], classes: Sequence[str]
) -> None:
    """Raises ``InputError`` if no image of a class could be used, with the commonest reason."""
    bad = [(items[c.number], c.problem) for c in cleaned if c.problem is not None]
    usable = {item.label for item, c in zip(items, cleaned, strict=True) if c.problem is None}
    lost = [name for name in classes if name not in usable]
    if not lost:
        return
    of_lost = [(item, problem) for item, problem in bad if item.label in lost]
    reasons = Counter(problem_kind(problem) for _, problem in of_lost)
    kind, count = reasons.most_common(1)[0]
    item, problem = next(each for each in of_lost if problem_kind(each[1]) == kind)
    of_class = "" if len(lost) == len(classes) else f" of the class {lost[0]!r}"
    advice = "give the right paths" if "no such file" in problem else "mend them or leave them out"
    raise InputError(
        f"none of {len(of_lost):,} labelled images{of_class} can be used; for {count:,} the reason "
        f"is: {kind}; the first is {item.image_id}: {shown(item.uri)}: {problem}; {advice}, and "
        "run the same command again"
    )


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
    buckets: int,
    files: Sequence[str],
    curation: Curation,
    seed: int,
    slices: Sequence[str],
    votes: bool,
) -> Iterator[StoredImage]:
    """The images kept in the seeded order, with a bucket in memory."""
    kept = {image.image_id: image for image in curation.images}
    index: dict[str | None, int] = {name: i for i, name in enumerate(curation.classes)}
    for bucket in range(buckets):
        rows = [(items[c.number], c) for c in read_bucket(files, bucket)]
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
    items: Sequence[Item],
    cleaned: Sequence[Cleaned],
    curation: Curation,
    request: BuildRequest,
    audit: Audit | None,
    left_out: LeftOut,
) -> dict[str, Any]:
    """Numbers of images read and kept, and the reasons for leaving others out."""
    splits = Counter(image.split for image in curation.images)
    images = Counter((image.split, image.label) for image in curation.images)
    # images without a label are in no split but the pool
    given = Counter(i.split for i in items if i.split == POOL or i.split and i.label is not None)
    counts = {s: {name: images[s, name] for name in curation.classes} for s in LABELED_SPLITS}
    return {
        "images": len(items),
        "kept": len(curation.images),
        "splits": {split: splits[split] for split in (*LABELED_SPLITS, POOL)},
        "left_out": left_out.lines(),
        "quarantined": {items[c.number].image_id: c.problem for c in cleaned if c.problem},
        "duplicates": curation.duplicates,
        "conflicts": curation.conflicts,
        "beside_labeled": curation.beside_labeled,
        "given_splits": {
            "images": {s: given[s] for s in (*LABELED_SPLITS, POOL) if given[s]},
            "unlabeled": dict(
                Counter(i.split for i in items if i.split in LABELED_SPLITS and i.label is None)
            ),
            "labels_unused": sum(i.split == POOL and i.label is not None for i in items),
            "drawn": curation.drawn,
            "across": curation.across,
        },
        "rare": {"what": request.rare, "classes": curation.rare},
        "test": precision_of(counts) | {"missed": curation.missed},
        "without_val": classes_without_val(counts),
        "changed": dict(Counter(why for c in cleaned for why in c.changed or ())),
        "answers": None if audit is None else asdict(audit),
    }
