"""Images inside larger files: WebDataset tars and Hugging Face image Parquet."""

import posixpath
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, RootModel

from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.parquet import column_texts, open_parquet
from semigrid.data.schema import Split
from semigrid.data.shapes import of_shape, parse_json
from semigrid.data.sources.given import FOUND_COLUMN, found_column, splits_of_column
from semigrid.data.sources.guarded_tar import TEXT_BYTES, GuardedTar
from semigrid.data.sources.items import (
    FOREIGN,
    IMAGE_BYTES,
    SUFFIXES,
    Extent,
    Item,
    ParquetRow,
    readable,
)
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import common_folder
from semigrid.data.storage.files import UnusableFileError, is_hidden
from semigrid.data.tables import check_columns


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

    What exists by a name with brackets or stars is that file or folder, and no pattern.

    Raises ``InputError`` when no file matches.
    """
    storage, pattern = open_storage(uri), ""
    if not storage.is_folder() and not storage.exists():
        parts = uri.split("/")
        stars = (n for n, part in enumerate(parts) if set("*?[") & set(part))
        for first in stars:
            storage = open_storage("/".join(parts[:first]) or ("/" if first else "."))
            if not storage.exists(parts[first]):
                pattern = "/".join(parts[first:])
                break
    if pattern:
        readable = [name for name, problem in storage.walk().items() if problem is None]
        names = [name for name in readable if _matches(name.split("/"), pattern.split("/"))]
    elif storage.is_folder():
        # or at any depth, as in folders named as splits, where there is none directly in it
        names = storage.names(suffix=suffix) or [
            name
            for name, problem in storage.walk().items()
            if not problem and name.endswith(suffix)
        ]
    else:
        names = [""] if storage.exists() else []
    if not names:
        raise InputError(f"{uri}: no file ending in {suffix}")
    return [storage.location(name) for name in names]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a path matches a pattern, part by part; ``**`` stands for any number of parts."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[n:], patterns[1:] or names[n:]) for n in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _names(paths: Sequence[str]) -> list[str]:
    """The files' names for ids: their paths below the folder that all of them share."""
    folder = common_folder(paths)
    return [readable(path.removeprefix(f"{folder}/")) for path in paths]


def webdataset_items(
    uri: str, label: str | None = None, left_out: LeftOut | None = None
) -> list[Item]:
    """Lists the images in uncompressed tars. Files with one name up to the first dot are a sample.

    Args:
        uri: a tar, a folder of tars, or a pattern.
        label: the key of each sample's ``.json`` that holds the label. By default the label is in
            the ``.cls`` file, and an image without one has no label.
        left_out: receives members that cannot be read, and images of formats that are not decoded.

    Raises:
        InputError: a tar or sample cannot be used, or no sample has an image.
    """
    items = []
    left_out = LeftOut() if left_out is None else left_out
    paths = matching_files(uri, ".tar")
    for path, name in zip(paths, _names(paths), strict=True):
        images, class_names = _members(path, label, left_out)
        for key, parts in images.items():
            if len(parts) > 1:
                raise InputError(f"{path}: the sample {key!r} has {len(parts)} images")
            (extent,) = parts.values()
            items.append(Item(f"{name}/{key}", path, class_names.get(key), inside=extent))
    if not items:
        raise InputError(
            f"{uri}: no sample has an image ({', '.join(SUFFIXES[:5])}, …)", *left_out.lines()
        )
    return items


def _members(
    path: str, label: str | None, left_out: LeftOut
) -> tuple[dict[str, dict[str, Extent]], dict[str, str | None]]:
    """Images by sample and extension, and class names by sample."""
    images: dict[str, dict[str, Extent]] = {}
    class_names: dict[str, str | None] = {}
    try:
        # no compression: images are read later at their offsets
        with (
            open_storage(path).open(ahead=True) as opened,
            tarfile.open(None, "r:", guarded := GuardedTar(opened)) as tar,
        ):
            for member in guarded.members(tar):
                name = readable(member.name)
                folder, base = posixpath.split(name)
                stem, _, extension = base.partition(".")
                is_image = f".{extension}".lower().endswith(SUFFIXES)
                is_text = extension == ("cls" if label is None else "json")
                if not member.isfile():
                    continue
                if any(map(is_hidden, name.split("/"))):
                    left_out.add("hidden files and folders", f"{path}: {name}")
                elif member.issparse() or member.size > (TEXT_BYTES if is_text else IMAGE_BYTES):
                    why = "sparse" if member.issparse() else "too large"
                    left_out.add(f"members of tars that are {why}", f"{path}: {name}")
                elif is_image:
                    extent = Extent(member.offset_data, member.size)
                    images.setdefault(posixpath.join(folder, stem), {})[extension] = extent
                elif is_text:
                    key = posixpath.join(folder, stem)
                    class_names[key] = _class_name(path, key, label, guarded.text(member))
                elif f".{extension.rpartition('.')[2]}".lower() in FOREIGN:
                    left_out.add("images of a format that is not decoded", f"{path}: {name}")
    except (InputError, StorageGoneError):
        raise
    except OSError as error:  # of the storage
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: not an uncompressed tar: {error}") from error
    return images, class_names


def _class_name(path: str, key: str, label: str | None, text: bytes) -> str | None:
    """The class that a sample's ``.cls``, or the key ``label`` of its ``.json``, names."""
    if label is None:
        return readable(text.decode("utf-8", "replace").strip()) or None
    where = f"{path}: the .json of {key!r}"
    found = parse_json(_Sample, text, where).root.get(label)
    if not isinstance(found, str | int | float | None):
        raise InputError(f"{where}: {label} is {str(found)[:80]}, not a name")
    return None if found is None or not str(found).strip() else readable(str(found))


def parquet_items(
    uri: str,
    image: str = "image",
    label: str | None = "label",
    split: str | None = None,
    find_split: bool = False,
    left_out: LeftOut | None = None,
) -> list[Item]:
    """Lists the rows of Parquet files with a Hugging Face image column, ``struct<bytes, path>``.

    Class names come from the features stored in the files. A row without a label joins the pool.

    Args:
        uri: a file, a folder of files, or a pattern.
        image, label: columns; without ``label`` no image has a label.
        split: column with the given split, see ``Item``.
        find_split: use a column named ``split`` if all files have it and it names two splits.
        left_out: receives a column named ``split`` that is not used.

    Raises:
        InputError: a file is not Parquet, lacks a column or class, or a split is unknown.
    """
    items: list[Item] = []
    splits: dict[str, list[str]] = {}  # as the files have them
    paths = matching_files(uri, ".parquet")
    for path, name in zip(paths, _names(paths), strict=True):
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(open_storage(path).open())
            except UnusableFileError as error:
                raise InputError(f"{path}: {error}") from error
            file = open_parquet(path, opened)
            schema, groups = file.schema_arrow, range(file.num_row_groups)
            check_columns(path, schema.names, [name for name in (image, label, split) if name])
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
                inside = ParquetRow(image, group, row)
                image_id = f"{name}/{group:05d}/{row:07d}"
                items.append(Item(image_id, path, class_name, inside=inside))
            column = split or (found_column(schema.names) if find_split else None)
            if column is not None:
                splits[path] = [value or "" for value in _labels(path, file, column)]
    found: list[Split | None] = []
    if len(splits) == len(paths):
        is_asked, left_out = split is not None, left_out or LeftOut()
        found = splits_of_column(splits, split or FOUND_COLUMN, is_asked, left_out)
    if not found:
        return items
    return [replace(item, split=of_row) for item, of_row in zip(items, found, strict=True)]


def _labels(path: str, file: pq.ParquetFile, label: str) -> list[str | None]:
    """The class names of all rows, None for those without a label."""
    texts = column_texts(path, file, label)
    kind = file.schema_arrow.field(label).type
    # Hugging Face writes −1 for no label
    missing = {"", "-1"} if pa.types.is_integer(kind) or pa.types.is_floating(kind) else {""}
    if (names := _class_names(path, file.schema_arrow, label)) is None:
        return [None if text.strip() in missing else text for text in texts]
    by_index = {str(index): name for index, name in enumerate(names)}
    for number, text in enumerate(texts):
        if text not in by_index and text.strip() not in missing:
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
