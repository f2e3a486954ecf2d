"""Opens a dataset by its URI: a folder, a bucket, or one that comes with semigrid."""

from pydantic import ValidationError

from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST, Dataset, Manifest
from semigrid.data.storage import open_storage


def open_dataset(uri: str) -> Dataset:
    """Opens ``builtin://NAME`` or a folder or bucket that holds ``dataset.json``.

    Raises ``InputError`` when it is missing, of another format, or lacks a shard.
    """
    if uri.startswith("builtin://"):
        from semigrid.data.builder.builtin import builtin_folder

        uri = builtin_folder(uri)
    storage = open_storage(uri)
    try:
        exists = storage.exists(MANIFEST)
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error
    if not exists:
        raise InputError(
            f"{uri}: no dataset here ({MANIFEST} is missing); give the folder or URI of a built "
            "dataset, builtin://digits or builtin://patterns"
        )
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{uri}/{MANIFEST}: {where}: {first['msg']}; build the dataset again"
        ) from error
    missing = [s.file for s in manifest.shards if not storage.exists(s.file)]
    if missing:
        raise InputError(
            f"{uri}: {len(missing)} of {len(manifest.shards)} shards are missing, the first is "
            f"{missing[0]}; copy them here or build the dataset again"
        )
    return Dataset(storage, manifest)
