"""Images inside larger files: WebDataset tars and Hugging Face image Parquet."""

import json
import posixpath
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.errors import InputError
from semigrid.data.sources.items import SUFFIXES, Extent, Item, ParquetRow
from semigrid.data.storage import open_storage
from semigrid.data.tables import check_columns


def matching_files(uri: str, suffix: str) -> list[str]:
    """Sorted URIs of the files in a folder or of a pattern (``shards/*.tar``).

    Raises ``InputError`` when no file matches.
    """
    storage = open_storage(uri)
    if storage.is_folder():
        names = storage.names(suffix=suffix)
    else:
        parts = uri.split("/")
        first = next((n for n, part in enumerate(parts) if set("*?[") & set(part)), len(parts) - 1)
        storage = open_storage("/".join(parts[:first]) or ("/" if uri.startswith("/") else "."))
        names = storage.find("/".join(parts[first:]))
    if not names:
        raise InputError(f"{uri}: no file ending in {suffix}")
    return [storage.location(name) for name in names]


def webdataset_items(uri: str, label: str | None = None) -> list[Item]:
    """Lists the images in uncompressed tars. Files with one name up to the first dot are a sample.

    Args:
        uri: a tar, a folder of tars, or a pattern.
        label: the key of each sample's ``.json`` that holds the label. By default the label is in
            the ``.cls`` file, and an image without one has no label.

    Raises:
        InputError: a tar or sample cannot be used, or no sample has an image.
    """
    items = []
    for path in matching_files(uri, ".tar"):
        samples = _samples(path)
        for key, members in samples.items():
            images = [m for m in members if f".{m}".lower().endswith(SUFFIXES)]
            if len(images) > 1:
                raise InputError(f"{path}: the sample {key!r} has {len(images)} images")
            if images:
                where = members[images[0]]
                class_name = _sample_label(path, key, members, label)
                name = f"{posixpath.basename(path)}/{key}"
                items.append(Item(name, path, class_name, inside=Extent(*where[:2])))
    if not items:
        raise InputError(f"{uri}: no sample has an image ({', '.join(SUFFIXES[:5])}, …)")
    return items


def _samples(path: str) -> dict[str, dict[str, tuple[int, int, bytes]]]:
    """Members by sample and extension: offset and size in bytes, and the content of text files."""
    storage = open_storage(path)
    samples: dict[str, dict[str, tuple[int, int, bytes]]] = {}
    try:
        # no compression: members are read later at their offsets
        with storage.open(ahead=True) as file, tarfile.open(None, "r:", file) as tar:
            for member in tar:
                folder, name = posixpath.split(member.name)
                stem, _, extension = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                content = b""
                if extension in ("cls", "json"):
                    opened = tar.extractfile(member)
                    content = opened.read() if opened is not None else b""
                key = posixpath.join(folder, stem)
                samples.setdefault(key, {})[extension] = member.offset_data, member.size, content
    except tarfile.TarError as error:
        raise InputError(f"{path}: not an uncompressed tar: {error}") from error
    return samples


def _sample_label(
    path: str, key: str, members: dict[str, tuple[int, int, bytes]], label: str | None
) -> str | None:
    if label is None:
        content = members.get("cls", (0, 0, b""))[2]
        return content.decode("utf-8", "replace").strip() or None
    try:
        facts: Any = json.loads(members["json"][2]) if "json" in members else {}
        value = facts.get(label)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: the .json of {key!r} is not a JSON object") from error
    return None if value in (None, "") else str(value)


def parquet_items(uri: str, image: str = "image", label: str | None = "label") -> list[Item]:
    """Lists the rows of Parquet files with a Hugging Face image column, ``struct<bytes, path>``.

    Class names come from the features stored in the files. A row without a label joins the pool.

    Args:
        uri: a file, a folder of files, or a pattern.
        image, label: columns; without ``label`` no image has a label.

    Raises:
        InputError: a file is not Parquet, or lacks a column or class.
    """
    items: list[Item] = []
    for path in matching_files(uri, ".parquet"):
        storage = open_storage(path)
        with storage.open() as opened:
            try:
                file = pq.ParquetFile(opened)
            except pa.ArrowInvalid as error:
                raise InputError(f"{path}: not a Parquet file: {error}") from error
            schema = file.schema_arrow
            _check_columns(path, schema, image, label)
            names = _class_names(schema, label)
            for group in range(file.num_row_groups):
                labels = [None] * file.metadata.row_group(group).num_rows
                if label is not None:
                    labels = file.read_row_group(group, columns=[label])[label].to_pylist()
                for row, value in enumerate(labels):
                    number = len(items)
                    items.append(
                        Item(
                            f"{posixpath.basename(path)}/{group:05d}/{row:07d}",
                            path,
                            _named(path, number, value, names),
                            inside=ParquetRow(image, group, row),
                        )
                    )
    return items


def _check_columns(path: str, schema: pa.Schema, image: str, label: str | None) -> None:
    check_columns(path, schema.names, [name for name in (image, label) if name is not None])
    kind = schema.field(image).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(f"{path}: the column {image!r} is {kind}, not struct<bytes, path>")


def _class_names(schema: pa.Schema, label: str | None) -> list[str] | None:
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = features.get("info", {}).get("features", {}).get(label, {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return None if names is None else [str(name) for name in names]


def _named(path: str, number: int, value: Any, names: list[str] | None) -> str | None:
    if value is None or value == -1 or value == "":  # Hugging Face writes −1 for no label
        return None
    if names is None:
        return str(value)
    if not 0 <= int(value) < len(names):
        top = len(names) - 1
        raise InputError(f"{path}: row {number} has the label {value}, not one from 0 to {top}")
    return names[int(value)]
