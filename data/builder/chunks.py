"""Cleans a source's images in chunks, with a file each; a killed build continues from them."""

import hashlib
import io
import json
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import __version__ as PILLOW

from semigrid.data.builder.clean import CLEAN_VERSION, JPEG_QUALITY, CleanSettings, clean_image
from semigrid.data.builder.request import BuildRequest
from semigrid.data.decoding import UnusableImageError
from semigrid.data.errors import InputError, RefusedError, ServerBusyError, StorageGoneError
from semigrid.data.redact import shown, without_secrets
from semigrid.data.schema import is_damage
from semigrid.data.sources.items import Item, readable
from semigrid.data.sources.versions import versions_of
from semigrid.data.splits import order_key
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.data.storage.web import answered_hosts, host_of, remember_answered

T = TypeVar("T")

READ_ATTEMPTS = 3
# problems of an image that another attempt to read it would not mend
IN_VAIN = (InputError, PermissionError, IsADirectoryError, TimeoutError, UnusableFileError)
# attempts in a row that end a build, where a process died and no chunk was finished
VAIN_ATTEMPTS = 3
_CHUNK = re.compile(r"chunk-(\d{6,})-\w+\.parquet")
INTERRUPTS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
SAFE_PATH = "PYTHONSAFEPATH"  # keeps the working directory out of a new process's sys.path
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("version", pa.string()),  # null for what is not used by a later build
        ("source", pa.string()),
        ("pixels", pa.string()),
        ("changed", pa.list_(pa.string())),
        ("problem", pa.string()),
        ("busy", pa.int64()),
        ("content", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Cleaned:
    """The item ``number`` after cleaning; ``problem`` is the reason if there is no content.

    ``source`` is the SHA-256 of the source's bytes, or of the item's identity if it has one;
    ``pixels`` and ``changed`` are those of ``CleanImage``. ``busy`` is the HTTP status of a server
    that was too busy to send it.
    """

    number: int
    source: str | None
    pixels: str
    changed: Sequence[str] | None
    problem: str | None
    busy: int | None = None
    content: bytes = b""


@dataclass(frozen=True)
class Chunk:
    """Consecutive items to clean into a file in ``folder``, with a row group for each bucket.

    ``versions`` says what the items' files are, as ``versions_of`` does; None for files that are
    asked for right before they are read, or tell it then. ``earlier`` has the names of the chunk's
    files of earlier builds.
    """

    number: int
    first: int
    items: tuple[Item, ...]
    versions: tuple[str | None, ...]
    folder: str
    buckets: int
    request: BuildRequest
    earlier: Sequence[str] = ()


def chunks_of(storage: Storage, items: Sequence[Item], request: BuildRequest) -> list[Chunk]:
    """The chunks of a source. The name of their folder is a hash of all that shapes them.

    That is everything but the content of files, which the name of a chunk's own file stands for.
    """
    shaping = {*CleanSettings.model_fields, "seed", "chunk_images", "bucket_images"}
    settings = request.model_dump_json(include=shaping)
    digest = hashlib.sha256(f"{CLEAN_VERSION} {PILLOW} {JPEG_QUALITY} {settings}".encode())
    for item in items:
        told = [item.image_id, shown(item.uri), repr(item.inside), item.identity]
        digest.update(json.dumps(told).encode())
    folder = storage.location(digest.hexdigest()[:16])
    versions = versions_of(items, web=False)
    buckets, size = -(-len(items) // request.bucket_images), request.chunk_images
    chunks = []
    for number, first in enumerate(range(0, len(items), size)):
        part = slice(first, first + size)
        own, known = tuple(items[part]), tuple(versions[part])
        chunks.append(Chunk(number, first, own, known, folder, buckets, request))
    return chunks


def run_chunks(
    chunks: Sequence[Chunk], processes: int, progress: Callable[[int, int], None]
) -> list[str]:
    """Cleans the chunks, and returns the URI of each chunk's file.

    Raises ``InputError`` when processes keep dying.
    """
    storage, total = open_storage(chunks[0].folder), sum(len(chunk.items) for chunk in chunks)
    files: dict[int, str] = {}
    count, vain = processes, 0
    while left := [chunk for chunk in chunks if chunk.number not in files]:
        there, before = _files(storage), len(files)
        left = [replace(chunk, earlier=there.get(chunk.number, ())) for chunk in left]
        progress(before * len(chunks[0].items), total)
        try:
            for done in map(clean_chunk, left) if processes == 1 else _in_processes(left, count):
                files |= [done]
                progress(min(total, len(files) * len(chunks[0].items)), total)
        except BrokenProcessPool as error:
            vain = vain + 1 if len(files) == before else 0
            if vain == VAIN_ATTEMPTS:
                raise InputError(
                    f"{chunks[0].folder}: processes that clean images died {vain} times in a row, "
                    "perhaps for lack of memory; the images cleaned so far are kept: give fewer "
                    "--processes and run the same command again"
                ) from error
            count = max(1, count // 2)
    return [storage.location(files[chunk.number]) for chunk in chunks]


def _files(storage: Storage) -> dict[int, list[str]]:
    """The names of the chunks' files by the chunks' numbers."""
    files: dict[int, list[str]] = {}
    for found in filter(None, map(_CHUNK.fullmatch, storage.names())):
        files.setdefault(int(found[1]), []).append(found[0])
    return files


def _in_processes(chunks: Sequence[Chunk], count: int) -> Iterator[tuple[int, str]]:
    """Cleans chunks side by side, and yields what ``clean_chunk`` returns for each."""
    # forked processes may hang, since this one has threads
    with _safe_path(), _pool(count) as pool:
        try:
            # processes start with this mask, so that Ctrl-C waits in them for ``_begin``
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
            try:
                started = [pool.submit(clean_chunk, chunk) for chunk in chunks]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for done in as_completed(started):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(count: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (answered_hosts(),))


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


def _begin(answered: Iterable[str]) -> None:
    """Ends this process at Ctrl-C, without a traceback, and when its parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    remember_answered(answered)


def _end_with_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)


def clean_chunk(chunk: Chunk) -> tuple[int, str]:
    """Reads and cleans a chunk's images and writes them; returns its number and its file's name.

    Images whose files are what they were when an earlier build cleaned them are taken from it.
    """
    storage, earlier = open_storage(chunk.folder), _earlier_rows(chunk, ["version", "source"])
    before = [(i, earlier.get(number, {})) for number, i in enumerate(chunk.items, chunk.first)]
    web = [item for item, row in before if item.tells_its_version and row.get("source")]
    remember_answered(host_of(item.uri) for item in web)
    versions = list(chunk.versions)
    asked = [  # without those that tell it when they are first read
        index
        for index, (item, row) in enumerate(before)
        if versions[index] is None and (row.get("version") or not item.tells_its_version)
    ]
    # before the files are read: one that changes meanwhile is read again by the next build
    answers = versions_of([chunk.items[index] for index in asked])
    for index, version in zip(asked, answers, strict=True):
        versions[index] = version
    if None not in versions and versions == [row.get("version") for _, row in before]:
        for name in chunk.earlier[1:]:
            storage.delete(name)
        return chunk.number, chunk.earlier[0]
    earlier = _earlier_rows(chunk, _SCHEMA.names[1:])
    by_bucket: list[list[dict[str, Any]]] = [[] for _ in range(chunk.buckets)]
    for index, item in enumerate(chunk.items):
        # buckets are consecutive parts of the seeded order, of equal size
        place = int.from_bytes(order_key(item.image_id, chunk.request.seed)[0][:8], "big")
        row: dict[str, Any] = {"number": chunk.first + index, "version": versions[index]}
        by_bucket[place * chunk.buckets >> 64].append(row)
        known = earlier.get(chunk.first + index, {})
        if versions[index] is not None and known.get("version") == versions[index]:
            row |= known
            continue
        try:
            content, told = _patiently(item.read_with_version)
            if item.tells_its_version:
                row["version"] = versions[index] = told
            hashed = content if item.identity is None else item.identity.encode()
            row["source"] = hashlib.sha256(hashed).hexdigest()
            row |= vars(clean_image(content, chunk.request))
        except (UnusableImageError, ServerBusyError) as error:
            row["problem"] = readable(str(error))  # it may quote the name of a file
            if isinstance(error, ServerBusyError):
                row |= {"problem": f"cannot be read: {error}", "busy": error.status}
            if "source" not in row:  # a failure to read, which is not remembered
                row["version"] = versions[index] = None
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _SCHEMA, compression="none") as writer:
        for rows in by_bucket:
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))  # also an empty one
    # a new name: another build may have taken over, and read the file that it found
    name = f"chunk-{chunk.number:06d}-{uuid.uuid4().hex}.parquet"
    storage.write(name, buffer.getvalue())
    for earlier_name in chunk.earlier:
        storage.delete(earlier_name)
    return chunk.number, name


def _earlier_rows(chunk: Chunk, columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Rows of the chunk's earlier file by number; none if it is damaged, or gone."""
    if not chunk.earlier:
        return {}
    try:
        with open_storage(chunk.folder).open(chunk.earlier[0], ahead=True) as file:
            rows = pq.read_table(file, columns=["number", *columns]).to_pylist()
            return {row["number"]: row for row in rows}
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, FileNotFoundError) or is_damage(error):
            return {}
        raise


def read_patiently(item: Item) -> bytes:
    """Reads the bytes of an image, several times if the network fails.

    Raises what ``_patiently`` raises.
    """
    return _patiently(item.read)


def _patiently(read: Callable[[], T]) -> T:
    """Reads an image, several times if the network fails.

    Raises ``UnusableImageError``, whose reason has no secret of an address, and
    ``StorageGoneError`` or ``RefusedError`` for a problem that concerns all images.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return read()
        except FileNotFoundError as error:
            raise UnusableImageError("there is no such file") from error
        except (MemoryError, StorageGoneError):
            raise  # no fault of the image
        except Exception as error:  # every protocol has its own errors
            if isinstance(error, RefusedError) and not error.one_object:
                raise
            if attempt == READ_ATTEMPTS or isinstance(error, IN_VAIN):
                why = readable(without_secrets(f"cannot be read: {error}"))
                raise UnusableImageError(why) from error
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def read_without_content(files: Sequence[str]) -> Iterator[Cleaned]:
    """Reads all items of the chunks' files, without their bytes. Raises ``InputError``."""
    names = [field.name for field in fields(Cleaned) if field.name != "content"]
    for uri in files:
        # in a bucket it is faster to read the images between these columns, too
        try:
            with open_storage(uri).open(ahead=True) as file:
                rows = pq.read_table(file, columns=names).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            if not is_damage(error):
                raise
            raise InputError(f"{uri}: damaged; delete it and run the same command again") from error
        yield from (Cleaned(**row) for row in rows)


def read_bucket(files: Sequence[str], bucket: int) -> Iterator[Cleaned]:
    """Reads the items of a bucket of the chunks' files, with their bytes."""
    for uri in files:
        with open_storage(uri).open() as file:
            names = [field.name for field in fields(Cleaned)]
            rows = pq.ParquetFile(file).read_row_group(bucket, columns=names).to_pylist()
        yield from (Cleaned(**row) for row in rows)
