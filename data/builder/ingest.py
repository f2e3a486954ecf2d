"""From a source's images to a dataset: clean in chunks, curate what is known, write in order.

Three passes. Chunks of images are cleaned side by side and left in a folder beside the dataset, one
file each, so that a build that was killed goes on with the chunks that are missing. Then what is
known of all images, without their bytes, decides which stay and where. At last the shards are
written in the seeded order, a bucket of the order at a time, and the manifest when all of them lie
there: until then there is no dataset.
"""

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.builder.clean import (
    CLEAN_VERSION,
    CleanSettings,
    UnusableImageError,
    clean_image,
)
from semigrid.data.builder.curate import Curation, Facts, Placed, curate
from semigrid.data.builder.write import write_shard
from semigrid.data.crowd.audit import Audit, Vote
from semigrid.data.errors import InputError, RefusedError, StorageGoneError
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
from semigrid.data.sources.items import Item
from semigrid.data.storage import Storage, open_storage

REPORT = "report.json"
BUILDING = ".building"
READ_ATTEMPTS = 3
# images of a bucket of the order: what the last pass holds in memory, with as many more in a shard
BUCKET_IMAGES = 8192
CHUNK_IMAGES = 512

_CLEANED = pa.schema(
    [
        ("number", pa.int64()),  # of the item
        ("content", pa.binary()),
        ("source", pa.string()),  # SHA-256 of the source's bytes, or of the item's identity
        ("pixels", pa.string()),
        ("changed", pa.list_(pa.string())),
        ("problem", pa.string()),  # why there is no content
    ]
)


@dataclass(frozen=True)
class BuildSettings:
    """How a dataset is built. All but ``chunk_images`` and ``bucket_images`` shape the result."""

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
    chunk_images: int = CHUNK_IMAGES
    bucket_images: int = BUCKET_IMAGES


@dataclass(frozen=True)
class Chunk:
    """A run of items to clean, and where the result goes."""

    number: int
    first: int
    items: tuple[Item, ...]
    folder: str
    seed: int
    buckets: int
    clean: CleanSettings

    @property
    def file(self) -> str:
        return f"chunk-{self.number:06d}.parquet"


# does the chunks, in any order and number at a time, and yields as each is done
ChunkRunner = Callable[[Sequence[Chunk]], Iterator[Any]]


def one_by_one(chunks: Sequence[Chunk]) -> Iterator[None]:
    """Cleans the chunks in this process."""
    for chunk in chunks:
        clean_chunk(chunk)
        yield


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
        votes: of the crowd on images, by image id, kept with them.
        audit: of the answers, for the report.
        progress: is told how many of the images have been cleaned.

    Raises:
        InputError: a dataset lies there already; the images cannot make one.
    """
    storage = open_storage(uri)
    if storage.exists(MANIFEST):
        raise InputError(f"{uri}: there is a dataset here already; give another place for this one")
    items = sorted(items, key=lambda item: item.image_id)
    repeated = [
        a.image_id for a, b in zip(items, items[1:], strict=False) if a.image_id == b.image_id
    ]
    if repeated:
        raise InputError(f"{len(repeated)} image ids are not unique, the first is {repeated[0]!r}")
    chunks = _chunks(storage, items, settings)
    _clean_all(chunks, workers, progress, len(items))
    known = [_Known(items[row["number"]], **row) for row in _read_known(chunks)]
    curation = curate(
        [
            Facts(k.item.image_id, k.item.label, k.item.group or k.item.image_id, k.pixels)
            for k in known
            if k.problem is None
        ],
        seed=settings.seed,
        val_share=settings.val_share,
        test_share=settings.test_share,
        classes=settings.classes,
    )
    manifest = _write(storage, chunks, known, curation, settings, votes or {})
    report = _report(known, curation, manifest, audit)
    storage.write(REPORT, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    storage.write(MANIFEST, (manifest.model_dump_json(indent=1) + "\n").encode())
    storage.delete(BUILDING)
    return Dataset(storage, manifest), report


@dataclass(frozen=True)
class _Known:
    """An item and what its cleaning found, without the bytes."""

    item: Item
    number: int
    source: str | None
    pixels: str
    changed: list[str]
    problem: str | None


def _chunks(storage: Storage, items: Sequence[Item], settings: BuildSettings) -> list[Chunk]:
    """The chunks of a source; their folder is named by all that shapes what they hold."""
    digest = hashlib.sha256(
        json.dumps([CLEAN_VERSION, asdict(settings.clean), settings.seed]).encode()
    )
    for item in items:
        digest.update(json.dumps([item.image_id, item.uri, repr(item.inside)]).encode())
    digest.update(json.dumps([settings.chunk_images, settings.bucket_images]).encode())
    folder = storage.folder(BUILDING, digest.hexdigest()[:16]).uri
    buckets = max(1, -(-len(items) // settings.bucket_images))
    return [
        Chunk(
            number,
            first,
            tuple(items[first : first + settings.chunk_images]),
            folder,
            settings.seed,
            buckets,
            settings.clean,
        )
        for number, first in enumerate(range(0, len(items), settings.chunk_images))
    ]


def _clean_all(
    chunks: Sequence[Chunk],
    workers: ChunkRunner,
    progress: Callable[[int, int], None],
    total: int,
) -> None:
    if not chunks:
        raise InputError("the source has no images")
    there = set(open_storage(chunks[0].folder).names(""))
    left = [chunk for chunk in chunks if chunk.file not in there]
    done = sum(len(chunk.items) for chunk in chunks if chunk.file in there)
    progress(done, total)
    for _ in workers(left):
        done = min(total, done + len(chunks[0].items))
        progress(done, total)


def clean_chunk(chunk: Chunk) -> None:
    """Reads and cleans a chunk's images and writes them, a row group for each bucket."""
    rows = [_clean_item(chunk.first + i, item, chunk.clean) for i, item in enumerate(chunk.items)]
    by_bucket: dict[int, list[dict[str, Any]]] = {b: [] for b in range(chunk.buckets)}
    for row, item in zip(rows, chunk.items, strict=True):
        by_bucket[_bucket(_order(item.image_id, chunk.seed), chunk.buckets)].append(row)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _CLEANED, compression="none") as writer:
        for bucket in range(chunk.buckets):
            # an empty bucket keeps its place: row group b is bucket b
            writer.write_table(pa.Table.from_pylist(by_bucket[bucket], schema=_CLEANED))
    open_storage(chunk.folder).write(chunk.file, buffer.getvalue())


def _clean_item(number: int, item: Item, settings: CleanSettings) -> dict[str, Any]:
    row: dict[str, Any] = {"number": number, "pixels": "", "changed": []}
    try:
        content = read_patiently(item)
        told = content if item.identity is None else item.identity.encode()
        row["source"] = hashlib.sha256(told).hexdigest()
        image = clean_image(content, settings)
    except UnusableImageError as error:
        return row | {"problem": str(error)}
    return row | {
        "content": image.content,
        "pixels": image.pixels,
        "changed": list(image.changed),
    }


def read_patiently(item: Item) -> bytes:
    """The bytes of an image; a network gets more than one chance.

    Raises ``UnusableImageError``, and where all images are concerned, not this one,
    ``StorageGoneError`` or ``RefusedError``.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return item.read()
        except FileNotFoundError as error:
            raise UnusableImageError("there is no such file") from error
        except (MemoryError, StorageGoneError):
            raise  # a full machine, a bucket that is away: not an image that cannot be read
        except RefusedError as error:
            if not error.one_object:
                raise
            raise UnusableImageError(f"cannot be read: {error}") from error
        except Exception as error:  # every protocol has its own errors
            if attempt == READ_ATTEMPTS:
                raise UnusableImageError(f"cannot be read: {error}") from error
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def _order(image_id: str, seed: int) -> tuple[bytes, str]:
    """Where an image stands in the seeded order, as ``seeded_order`` has it."""
    return hashlib.sha256(f"{seed}/{image_id}".encode()).digest(), image_id


def _bucket(order: tuple[bytes, str], buckets: int) -> int:
    """Buckets are equal, consecutive parts of the order."""
    return int.from_bytes(order[0][:8], "big") * buckets >> 64


def _read_known(chunks: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
    names = [name for name in _CLEANED.names if name != "content"]
    for chunk in chunks:
        storage = open_storage(chunk.folder)
        # facts scattered between images are read sooner with them from a bucket
        with storage.open(chunk.file, ahead=True) as file:
            yield from pq.read_table(file, columns=names).to_pylist()


def _write(
    storage: Storage,
    chunks: Sequence[Chunk],
    known: Sequence[_Known],
    curation: Curation,
    settings: BuildSettings,
    votes: Mapping[str, Vote],
) -> Manifest:
    """Writes all shards and returns the manifest, which is not written yet."""
    placed = {image.image_id: image for image in curation.images}
    kept = {k.number: k.item for k in known if k.item.image_id in placed}
    slices = tuple(sorted({name for item in kept.values() for name in item.slices}))
    taken = sorted({*columns_of().names, VOTES, "probabilities"} & {*slices})
    if taken:
        raise InputError(
            f"a slice cannot be called {taken[0]!r}: datasets have that column already"
        )
    writer = _Writer(storage, settings, (*slices, *([VOTES] if votes else [])))
    for bucket in range(chunks[0].buckets):
        rows = [row for row in _read_bucket(chunks, bucket) if row["number"] in kept]
        rows.sort(key=lambda row: _order(kept[row["number"]].image_id, settings.seed))
        for row in rows:
            item = kept[row["number"]]
            values = {name: item.slices.get(name) for name in slices}
            if votes:
                vote = votes.get(item.image_id)
                cast = None if vote is None else json.dumps(dict(vote.votes), sort_keys=True)
                values[VOTES] = cast
            writer.add(placed[item.image_id], row["content"], values)
    shards = writer.finish()
    counts = Counter((image.split, image.label) for image in curation.images)
    pool = counts[POOL, None]
    return Manifest(
        format=FORMAT,
        name=settings.name,
        classes=curation.classes,
        counts={
            split: {name: counts[split, i] for i, name in enumerate(curation.classes)}
            for split in ("train", "val", "test")
        },
        pool=pool,
        pool_unit=pool if settings.pool_unit is None else settings.pool_unit,
        fingerprint=_fingerprint(known, curation, settings, slices, votes),
        license=settings.license,
        source=settings.source,
        order_seed=settings.seed,
        shards=tuple(shards),
        slices=slices,
        votes=bool(votes),
    )


def _read_bucket(chunks: Sequence[Chunk], bucket: int) -> Iterator[dict[str, Any]]:
    for chunk in chunks:
        storage = open_storage(chunk.folder)
        with storage.open(chunk.file) as file:
            yield from pq.ParquetFile(file).read_row_group(bucket).to_pylist()


class _Writer:
    """Collects rows in order and writes a shard of a split whenever one is full."""

    def __init__(self, storage: Storage, settings: BuildSettings, extra: Sequence[str]):
        self.storage, self.settings, self.schema = storage, settings, columns_of(extra)
        self.pending: dict[Split, list[dict[str, Any]]] = {s: [] for s in (*LABELED_SPLITS, POOL)}
        self.shards: dict[Split, list[Shard]] = {split: [] for split in self.pending}

    def add(self, image: Placed, content: bytes, values: dict[str, str | None]) -> None:
        rows = self.pending[image.split]
        rows.append(
            {
                "image_id": image.image_id,
                "image": {"bytes": content, "path": None},
                "label": image.label,
                "group": image.group,
                **values,
            }
        )
        if len(rows) == self.settings.rows_per_group * self.settings.groups_per_shard:
            self._flush(image.split)

    def _flush(self, split: Split) -> None:
        number, per_group = len(self.shards[split]), self.settings.rows_per_group
        rows = self.pending[split]
        shard = write_shard(self.storage, split, number, rows, self.schema, per_group)
        self.shards[split].append(shard)
        self.pending[split] = []

    def finish(self) -> list[Shard]:
        for split, rows in self.pending.items():
            if rows:
                self._flush(split)
        return [shard for shards in self.shards.values() for shard in shards]


def _fingerprint(
    known: Iterable[_Known],
    curation: Curation,
    settings: BuildSettings,
    slices: Sequence[str],
    votes: Mapping[str, Vote],
) -> str:
    """SHA-256 over what the dataset holds, told by the sources' bytes and what is done to them.

    Encoders differ between machines, so the bytes of images that were written anew are not in it.
    An item that has an ``identity``, since its very source is encoded on this machine, is told by
    that.
    """
    digest = hashlib.sha256()
    header = [FORMAT, CLEAN_VERSION, asdict(settings.clean), settings.seed]
    header += [list(curation.classes), settings.rows_per_group, list(slices)]
    digest.update(json.dumps(header).encode())
    by_id = {k.item.image_id: k for k in known}
    for image in curation.images:  # sorted by id
        of = by_id[image.image_id]
        vote = votes.get(image.image_id)
        row: list[Any] = [image.image_id, of.source, image.label, image.split, image.group]
        row += [of.item.slices.get(name) for name in slices]
        row += [None if vote is None else sorted(vote.votes.items())]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _report(
    known: Sequence[_Known], curation: Curation, manifest: Manifest, audit: Audit | None
) -> dict[str, Any]:
    """What was read, what was kept, and why the rest was not."""
    bad = [k for k in known if k.problem is not None]
    return {
        "images": len(known),
        "kept": len(curation.images),
        "splits": {
            **{split: sum(counts.values()) for split, counts in manifest.counts.items()},
            POOL: manifest.pool,
        },
        "quarantined": {k.item.image_id: k.problem for k in bad},
        "duplicates": curation.duplicates,
        "conflicts": curation.conflicts,
        "beside_labeled": curation.beside_labeled,
        "changed": dict(Counter(why for k in known for why in k.changed)),
        "answers": None if audit is None else asdict(audit),
    }
