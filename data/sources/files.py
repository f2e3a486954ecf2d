"""Images in files of their own: folders of class folders, and tables of paths or URLs."""

import mimetypes
import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from semigrid.data.decoding import FORMATS, HEAD_BYTES, format_of
from semigrid.data.errors import InputError, RefusedError, StorageGoneError
from semigrid.data.redact import shown
from semigrid.data.schema import Split
from semigrid.data.sources.given import found_column, note_folders, splits_of_column
from semigrid.data.sources.items import FOREIGN, HEIC, SUFFIXES, Item, readable
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage import Storage, open_storage
from semigrid.data.storage.address import beside, ids_in, unique_names
from semigrid.data.tables import open_table

_TYPES = mimetypes.MimeTypes(filenames=())  # without those of the machine


def folder_items(uri: str, labeled: bool = True, left_out: LeftOut | None = None) -> list[Item]:
    """Lists the images below a folder, in ``root/<class>/…`` at any depth if they are labelled.

    Links are followed. Files without a known ending are images if their first bytes say so.

    Args:
        left_out: receives all that is no image.

    Raises:
        InputError: there is no image, or a labelled one is outside the class folders.
    """
    storage = open_storage(uri)
    if not storage.is_folder():
        raise InputError(f"{uri}: there is no such folder")
    left_out = LeftOut() if left_out is None else left_out
    walked = storage.walk()
    formats = _formats(storage, [name for name, problem in walked.items() if problem is None])
    items = []
    for name, problem in walked.items():
        image_id = readable(name)
        problem = formats[name] if problem is None else problem
        if problem is not None:
            left_out.add(problem, image_id)
            continue
        label, _, rest = image_id.partition("/")
        if labeled and not rest:
            raise InputError(
                f"{uri}: {image_id} is outside the class folders; put labelled images into "
                f"{uri}/<class>/, or give the folder as pool if they have no labels"
            )
        items.append(Item(image_id, storage.location(name), label if labeled else None))
    if not items:
        raise InputError(
            "\n".join([f"{uri}: no image here ({', '.join(SUFFIXES[:5])}, …)", *left_out.lines()])
        )
    return items


def _formats(storage: Storage, names: Sequence[str]) -> dict[str, str | None]:
    """For each file None if it is an image that can be decoded, else what it is."""
    formats: dict[str, str | None] = {}
    unknown = []
    for name in names:
        ending = posixpath.splitext(name)[1].lower()
        if ending in SUFFIXES:
            formats[name] = None
        elif ending in HEIC:  # telephones and their services name JPEGs so, too
            unknown.append(name)
        elif ending in FOREIGN:
            formats[name] = f"images of a format that is not decoded ({ending})"
        elif _TYPES.guess_type(posixpath.basename(name))[0] in (None, "application/octet-stream"):
            unknown.append(name)
        else:
            formats[name] = "files that are no images"

    def look(name: str) -> str | None:
        try:
            with storage.open(name) as file:
                found = format_of(file.read(HEAD_BYTES))
        except StorageGoneError:
            raise
        except OSError as error:
            if isinstance(error, RefusedError) and not error.one_object:
                raise
            return "files that cannot be read"
        ending = posixpath.splitext(name)[1].lower()
        # photographs of cameras begin like TIFF, which in them is a small preview
        if found in FORMATS and (found != "TIFF" or not ending):
            return None
        if ending in HEIC or found == "TIFF":
            found = ending
        kind = f"images of a format that is not decoded ({found})"
        return "files that are no images" if found is None else kind

    with ThreadPoolExecutor(storage.files.readers) as readers:
        return formats | dict(zip(unknown, readers.map(look, unknown), strict=True))


def table_items(
    uri: str,
    *,
    image: str = "image",
    label: str | None = "label",
    image_id: str | None = None,
    group: str | None = None,
    slices: Sequence[str] = (),
    split: str | None = None,
    find_split: bool = False,
    left_out: LeftOut | None = None,
) -> list[Item]:
    """Lists the images of a CSV or Parquet table with a row per image.

    Args:
        image: column with paths or URLs. Relative paths start at the table's folder.
        label: column with labels, empty for images without one. None: no image has a label.
        image_id: column with ids; the default is the path, without a URL's signature.
        group, slices, split: columns with the group, slices and given split, see ``Item``.
        find_split: use a column named ``split`` if it names two splits.
        left_out: receives what looks like splits and is not used.

    Raises:
        InputError: the table lacks a column or path, an id occurs twice, a split is unknown, no
            file is there, or a table from elsewhere names a file on this machine.
    """
    table = open_table(uri)
    splits: list[Split | None] = []
    column = split or (found_column(table.names) if find_split else None)
    if column is not None:
        of_column = {uri: table.columns(column)[column]}
        splits = splits_of_column(of_column, column, split is not None, left_out or LeftOut())
    names = [name for name in (image, label, image_id, group, *slices) if name is not None]
    columns = table.columns(*names)
    paths = columns[image]
    ids = ids_in(uri, paths) if image_id in (None, image) else unique_names(columns[image_id])
    for name in (image, image_id or image):
        if "" in columns[name]:
            raise InputError(f"{uri}: row {columns[name].index('') + 1} has no {name}")
    if repeated := [name for name, count in Counter(ids).items() if count > 1]:
        raise InputError(f"{uri}: {len(repeated)} images occur twice, the first is {repeated[0]!r}")
    uris = [beside(uri, path) for path in paths]
    _check_one_is_there(uri, paths, uris)
    values = [columns[name] for name in slices]
    items = [
        Item(
            ids[row],
            uris[row],
            _unless_blank(columns[label][row]) if label is not None else None,
            _unless_blank(shown(columns[group][row])) if group is not None else None,
            {name: shown(of_row[row]) for name, of_row in zip(slices, values, strict=True)},
            split=splits[row] if splits else None,
        )
        for row in range(len(ids))
    ]
    if find_split and column is None and left_out is not None:
        note_folders(items, left_out)
    return items


def _unless_blank(text: str) -> str | None:
    return text if text.strip() else None


def _check_one_is_there(uri: str, paths: Sequence[str], uris: Sequence[str]) -> None:
    """Raises ``InputError`` if all images are local files and none is there.

    Elsewhere each look would be a request; those files are missed when they are read.
    """
    if any("://" in place or os.path.lexists(place) for place in uris):
        return
    here = "; there is one in the working folder" if os.path.lexists(paths[0]) else ""
    raise InputError(
        f"{uri}: no such file: none of its {len(paths)} images is there; {paths[0]!r} was looked "
        f"for at {uris[0]}{here}; relative paths start at the table's folder"
    )
