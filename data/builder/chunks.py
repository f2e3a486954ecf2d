"""Cleans a source's images in chunks, with a file each; a killed build continues from them."""

import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.builder.clean import CLEAN_VERSION, clean_image
from semigrid.data.builder.request import BuildRequest
from semigrid.data.decoding import UnusableImageError
from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.redact import without_secrets
from semigrid.data.sources.items import Item
from semigrid.data.splits import order_key
from semigrid.data.storage import Storage, open_storage

READ_ATTEMPTS = 3
# attempts in a row that end a build, where a process died and no chunk was finished
VAIN_ATTEMPTS = 3
SAFE_PATH = "PYTHONSAFEPATH"  # keeps the working directory out of a new process's sys.path
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("source", pa.string()),
        ("pixels", pa.string()),
        ("changed", pa.list_(pa.string())),
        ("problem", pa.string()),
        ("content", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Cleaned:
    """The item ``number`` after cleaning; ``problem`` is the reason if there is no content.

    ``source`` is the SHA-256 of the source's bytes, or of the item's identity if it has one;
    ``pixels`` and ``changed`` are those of ``CleanImage``.
    """

    number: int
    source: str | None
    pixels: str
    changed: Sequence[str] | None
    problem: str | None
    content: bytes = b""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items to clean into a file in ``folder``, with a row group for each bucket."""

    number: int
    first: int
    items: tuple[Item, ...]
    folder: str
    buckets: int
    request: BuildRequest

    @property
    def file(self) -> str:
        return f"chunk-{self.number:06d}.parquet"


def chunks_of(storage: Storage, items: Sequence[Item], request: BuildRequest) -> list[Chunk]:
    """The chunks of a source. The name of their folder is a hash of all that shapes them."""
    shaping = {"max_pixels", "shorter_side", "seed", "chunk_images", "bucket_images"}
    header = f"{CLEAN_VERSION} {request.model_dump_json(include=shaping)}"
    digest = hashlib.sha256(header.encode())
    for item in items:
        told = [item.image_id, item.uri, repr(item.inside), item.identity]
        digest.update(json.dumps(told).encode())
    folder = storage.location(digest.hexdigest()[:16])
    buckets, size = -(-len(items) // request.bucket_images), request.chunk_images
    return [
        Chunk(number, first, tuple(items[first : first + size]), folder, buckets, request)
        for number, first in enumerate(range(0, len(items), size))
    ]


def run_chunks(
    chunks: Sequence[Chunk], processes: int, progress: Callable[[int, int], None]
) -> None:
    """Cleans the chunks that have no file yet. Raises ``InputError`` when processes keep dying."""
    storage, total = open_storage(chunks[0].folder), sum(len(chunk.items) for chunk in chunks)
    done_before, count, vain = set(storage.names()), processes, 0
    while True:
        left = [chunk for chunk in chunks if chunk.file not in done_before]
        done = total - sum(len(chunk.items) for chunk in left)
        progress(done, total)
        try:
            for _ in map(clean_chunk, left) if processes == 1 else _in_processes(left, count):
                done = min(total, done + len(chunks[0].items))
                progress(done, total)
            return
        except BrokenProcessPool as error:
            done_now = set(storage.names())
            vain = vain + 1 if done_now == done_before else 0
            if vain == VAIN_ATTEMPTS:
                raise InputError(
                    f"{chunks[0].folder}: processes that clean images died {vain} times in a row, "
                    "perhaps for lack of memory; the images cleaned so far are kept: give fewer "
                    "--processes and run the same command again"
                ) from error
            done_before, count = done_now, max(1, count // 2)


def _in_processes(chunks: Sequence[Chunk], count: int) -> Iterator[None]:
    """Cleans chunks side by side, and yields once for each."""
    # forked processes may hang, since this one has threads
    with _safe_path(), ProcessPoolExecutor(count, get_context("spawn"), _begin) as pool:
        try:
            # processes start with this mask, so that Ctrl-C waits in them for ``_begin``
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                started = [pool.submit(clean_chunk, chunk) for chunk in chunks]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for done in as_completed(started):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keeps processes that start meanwhile from running modules of the working directory."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[SAFE_PATH]
        if before is not None:
            os.environ[SAFE_PATH] = before


def _begin() -> None:
    """Ends this process at Ctrl-C, without a traceback, and when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


def clean_chunk(chunk: Chunk) -> None:
    """Reads and cleans a chunk's images and writes them."""
    by_bucket: list[list[dict[str, Any]]] = [[] for _ in range(chunk.buckets)]
    for number, item in enumerate(chunk.items, chunk.first):
        # buckets are consecutive parts of the seeded order, of equal size
        place = int.from_bytes(order_key(item.image_id, chunk.request.seed)[0][:8], "big")
        row: dict[str, Any] = {"number": number}
        by_bucket[place * chunk.buckets >> 64].append(row)
        try:
            content = read_patiently(item)
            hashed = content if item.identity is None else item.identity.encode()
            row["source"] = hashlib.sha256(hashed).hexdigest()
            row |= vars(clean_image(content, chunk.request))
        except UnusableImageError as error:
            row["problem"] = str(error)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _SCHEMA, compression="none") as writer:
        for rows in by_bucket:
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))  # also an empty one
    open_storage(chunk.folder).write(chunk.file, buffer.getvalue())


def read_patiently(item: Item) -> bytes:
    """Reads the bytes of an image, several times if the network fails.

    Raises ``UnusableImageError``, whose reason has no secret of an address, and
    ``StorageGoneError`` or ``RefusedError`` for a problem that concerns all images.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return item.read()
        except FileNotFoundError as error:
            raise UnusableImageError("there is no such file") from error
        except (MemoryError, StorageGoneError):
            raise  # no fault of the image
        except Exception as error:  # every protocol has its own errors
            refused = error if isinstance(error, RefusedError) else None
            if refused and not refused.one_object:
                raise
            # an address that is no good stays so, and a silent server has had its time
            if attempt == READ_ATTEMPTS or isinstance(error, InputError | TimeoutError):
                raise UnusableImageError(without_secrets(f"cannot be read: {error}")) from error
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def read_without_content(chunks: Sequence[Chunk]) -> Iterator[Cleaned]:
    """Reads all items after cleaning, without their bytes."""
    names = [name for name in _SCHEMA.names if name != "content"]
    for chunk in chunks:
        # in a bucket it is faster to read the images between these columns, too
        with open_storage(chunk.folder).open(chunk.file, ahead=True) as file:
            rows = pq.read_table(file, columns=names).to_pylist()
        yield from (Cleaned(**row) for row in rows)


def read_bucket(chunks: Sequence[Chunk], bucket: int) -> Iterator[Cleaned]:
    """Reads the items of a bucket, with their bytes."""
    for chunk in chunks:
        with open_storage(chunk.folder).open(chunk.file) as file:
            rows = pq.ParquetFile(file).read_row_group(bucket).to_pylist()
        yield from (Cleaned(**row) for row in rows)
