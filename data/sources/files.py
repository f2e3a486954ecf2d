"""Images in files of their own: folders of class folders, and tables of paths or URLs."""

import os
from collections import Counter
from collections.abc import Sequence

from semigrid.data.errors import InputError
from semigrid.data.sources.items import SUFFIXES, Item
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import beside, ids_in, shown, unique_names
from semigrid.data.tables import open_table


def folder_items(uri: str, labeled: bool = True) -> list[Item]:
    """Lists the images below a folder, in ``root/<class>/…`` at any depth if they are labelled.

    Raises ``InputError`` when there is no image, or a labelled one is outside the class folders.
    """
    storage = open_storage(uri)
    if not storage.is_folder():
        raise InputError(f"{uri}: there is no such folder")
    items = []
    for name in storage.find():
        if not name.lower().endswith(SUFFIXES):
            continue
        label, _, rest = name.partition("/")
        if labeled and not rest:
            raise InputError(
                f"{uri}: {name} is outside the class folders; put labelled images into "
                f"{uri}/<class>/, or give the folder as pool if they have no labels"
            )
        items.append(Item(name, storage.location(name), label if labeled else None))
    if not items:
        raise InputError(f"{uri}: no image here ({', '.join(SUFFIXES[:5])}, …)")
    return items


def table_items(
    uri: str,
    *,
    image: str = "image",
    label: str | None = "label",
    image_id: str | None = None,
    group: str | None = None,
    slices: Sequence[str] = (),
) -> list[Item]:
    """Lists the images of a CSV or Parquet table with a row per image.

    Args:
        image: column with paths or URLs. Relative paths start at the table's folder.
        label: column with labels, empty for images without one. None: no image has a label.
        image_id: column with ids; the default is the path, without a URL's signature.
        group, slices: columns with the group and slices, see ``Item``.

    Raises:
        InputError: the table lacks a column or path, an id occurs twice, no file is there, or a
            table from elsewhere names a file on this machine.
    """
    names = [name for name in (image, label, image_id, group, *slices) if name is not None]
    columns = open_table(uri).columns(*names)
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
    return [
        Item(
            ids[row],
            uris[row],
            columns[label][row] or None if label is not None else None,
            shown(columns[group][row]) or None if group is not None else None,
            {name: shown(of_row[row]) for name, of_row in zip(slices, values, strict=True)},
        )
        for row in range(len(ids))
    ]


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
