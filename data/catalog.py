"""Opens a dataset by its URI: a folder, a bucket, or one that comes with semigrid."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.plausible import first_problem
from semigrid.data.schema import MANIFEST, POOL, Dataset, Manifest
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.files import NOT_THERE

LARGEST_MANIFEST = 64 * 2**20  # bytes


def open_dataset(uri: str) -> Dataset:
    """Opens ``builtin://NAME`` or a folder or bucket that holds ``dataset.json``.

    Raises ``InputError`` when it is missing, of another format, contradicts itself, or lacks a
    shard, and ``StorageGoneError``.
    """
    if uri.startswith("builtin://"):
        from semigrid.data.builder.builtin import builtin_folder

        uri = builtin_folder(uri)
    storage = open_storage(uri)
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST, LARGEST_MANIFEST))
    except NOT_THERE as error:
        raise InputError(
            f"{uri}: no dataset here ({MANIFEST} is missing); give the folder or URI of a built "
            "dataset, builtin://digits or builtin://patterns"
        ) from error
    except ValidationError as error:
        raise InputError(
            f"{uri}/{MANIFEST}: {first_problem(error)}; build the dataset again"
        ) from error
    except StorageGoneError:
        raise
    except OSError as error:
        raise InputError(f"{uri}/{MANIFEST}: cannot be read: {error}") from error
    _check_shards(storage, manifest)
    return Dataset(storage, manifest)


def _check_shards(storage: Storage, manifest: Manifest) -> None:
    """Raises ``InputError`` where the files cannot be what the manifest says; reads none."""
    files = [shard.file for shard in manifest.shards]
    with ThreadPoolExecutor(storage.files.readers) as pool:
        sizes = dict(zip(files, pool.map(storage.size, files), strict=True))
    missing = [file for file, size in sizes.items() if size is None]
    if missing:
        raise InputError(
            f"{storage.uri}: {len(missing)} of {len(files)} shards are missing, the first is "
            f"{missing[0]}; copy them here or build the dataset again"
        )
    rows: Counter[str] = Counter()
    for shard in manifest.shards:
        where, size = storage.location(shard.file), sizes[shard.file] or 0
        # a link may lead anywhere, as in caches: a file's hash is compared before it is used
        if (path := storage.local_path(shard.file)) is not None and not path.is_file():
            raise InputError(f"{where}: not a file; build the dataset again")
        if size < shard.rows:
            raise InputError(
                f"{where}: {size:,} bytes cannot hold {shard.rows:,} images; copy it here again or "
                "build the dataset again"
            )
        rows[shard.split] += shard.rows
    stated: dict[str, int] = {s: sum(images.values()) for s, images in manifest.counts.items()}
    for split, images in (stated | {POOL: manifest.pool}).items():
        if rows[split] != images:
            raise InputError(
                f"{storage.location(MANIFEST)}: {images:,} images in {split}, but its shards have "
                f"{rows[split]:,}; build the dataset again"
            )
