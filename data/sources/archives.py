"""Images inside larger files: WebDataset tars and Hugging Face image Parquet."""

import posixpath
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, RootModel

from semigrid.data.errors import InputError
from semigrid.data.shapes import of_shape, parse_json
from semigrid.data.sources.items import SUFFIXES, Extent, Item, ParquetRow
from semigrid.data.storage import open_storage
from semigrid.data.tables import check_columns, column_texts, open_parquet


class _Sample(RootModel[dict[str, Any]]):
    """The ``.json`` of a WebDataset sample."""


class _Info(BaseModel):
    features: dict[str, Any] | None = None


class _HuggingFace(BaseModel):
    """What ``datasets`` writes into the schema of its files."""

    info: _Info | None = None


class _ClassLabel(BaseModel):
    names: list[str] | None = None


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
        images, texts = _members(path)
        for key, parts in images.items():
            if len(parts) > 1:
                raise InputError(f"{path}: the sample {key!r} has {len(parts)} images")
            found: Any = texts.get((key, "cls"), b"").decode("utf-8", "replace").strip()
            if label is not None:
                where = f"{path}: the .json of {key!r}"
                sample = parse_json(_Sample, texts.get((key, "json"), b"{}"), where)
                found = sample.root.get(label)
                if not isinstance(found, str | int | float | None):
                    raise InputError(f"{where}: {label} is {str(found)[:80]}, not a name")
            class_name = None if found in (None, "") else str(found)
            (extent,) = parts.values()
            name = f"{posixpath.basename(path)}/{key}"
            items.append(Item(name, path, class_name, inside=extent))
    if not items:
        raise InputError(f"{uri}: no sample has an image ({', '.join(SUFFIXES[:5])}, …)")
    return items


def _members(path: str) -> tuple[dict[str, dict[str, Extent]], dict[tuple[str, str], bytes]]:
    """Images by sample and extension, and texts by both."""
    images: dict[str, dict[str, Extent]] = {}
    texts: dict[tuple[str, str], bytes] = {}
    try:
        # no compression: images are read later at their offsets
        with open_storage(path).open(ahead=True) as file, tarfile.open(None, "r:", file) as tar:
            for member in tar:
                folder, name = posixpath.split(member.name)
                stem, _, extension = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = posixpath.join(folder, stem)
                if f".{extension}".lower().endswith(SUFFIXES):
                    extent = Extent(member.offset_data, member.size)
                    images.setdefault(key, {})[extension] = extent
                elif extension in ("cls", "json") and (text := tar.extractfile(member)):
                    texts[key, extension] = text.read()
    except tarfile.TarError as error:
        raise InputError(f"{path}: not an uncompressed tar: {error}") from error
    return images, texts


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
            file = open_parquet(path, opened)
            schema, groups = file.schema_arrow, range(file.num_row_groups)
            check_columns(path, schema.names, [image, label] if label else [image])
            kind = schema.field(image).type
            if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise InputError(f"{path}: the column {image!r} is {kind}, not struct<bytes, path>")
            content = kind.field("bytes").type
            if not pa.types.is_binary(content) and not pa.types.is_large_binary(content):
                raise InputError(f"{path}: {image!r} is {kind}; its bytes must be binary")
            labels: list[str | None] = [None] * file.metadata.num_rows
            if label:
                labels = _labels(path, file, label)
            rows = [(g, row) for g in groups for row in range(file.metadata.row_group(g).num_rows)]
            for class_name, (group, row) in zip(labels, rows, strict=True):
                image_id = f"{posixpath.basename(path)}/{group:05d}/{row:07d}"
                inside = ParquetRow(image, group, row)
                items.append(Item(image_id, path, class_name, inside=inside))
    return items


def _labels(path: str, file: pq.ParquetFile, label: str) -> list[str | None]:
    """The class names of all rows, None for those without a label."""
    texts = column_texts(path, file, label)
    kind = file.schema_arrow.field(label).type
    # Hugging Face writes −1 for no label
    missing = {"", "-1"} if pa.types.is_integer(kind) or pa.types.is_floating(kind) else {""}
    if (names := _class_names(path, file.schema_arrow, label)) is None:
        return [None if text in missing else text for text in texts]
    by_index = {str(index): name for index, name in enumerate(names)}
    for number, text in enumerate(texts):
        if text not in by_index and text not in missing:
            top = len(names) - 1
            raise InputError(f"{path}: row {number} has the label {text}, not one from 0 to {top}")
    return [by_index.get(text) for text in texts]


def _class_names(path: str, schema: pa.Schema, label: str) -> list[str] | None:
    """The names that stand for the indices of a column of Hugging Face's ``ClassLabel``."""
    where = f"{path}: the schema's Hugging Face features"
    stored = parse_json(_HuggingFace, (schema.metadata or {}).get(b"huggingface", b"{}"), where)
    feature = ((stored.info or _Info()).features or {}).get(label)
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return of_shape(_ClassLabel, feature, f"{where}: {label}").names
