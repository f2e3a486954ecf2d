"""Images in files of their own: folders of class folders, and tables of paths or URLs."""

import posixpath
from collections.abc import Iterable

from semigrid.data.errors import InputError
from semigrid.data.sources.items import SUFFIXES, Item
from semigrid.data.storage import open_storage
from semigrid.data.tables import read_table


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
    slices: Iterable[str] = (),
    root: str | None = None,
) -> list[Item]:
    """Lists the images of a CSV or Parquet table with a row per image.

    Args:
        image: column with paths or URLs. Relative paths start at ``root``.
        label: column with labels, empty for images without one. None: no image has a label.
        image_id: column with ids; the default is the path.
        group, slices: columns with the group and slices, see ``Item``.
        root: folder of relative paths; the default is the table's folder.

    Raises:
        InputError: the table lacks a column or path, or an id occurs twice.
    """
    table = read_table(uri)
    slices = list(slices)
    named = [name for name in (image, label, image_id, group, *slices) if name is not None]
    missing = [name for name in named if name not in table]
    if missing:
        raise InputError(
            f"{uri}: there is no column {missing[0]!r}; there are {', '.join(table.columns)}"
        )
    empty = table[image] == ""
    if empty.any():
        raise InputError(f"{uri}: row {int(empty.to_numpy().argmax()) + 1} has no {image}")
    base = open_storage(root if root is not None else posixpath.dirname(uri) or ".").uri
    ids = table[image_id or image]
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{uri}: {len(repeated)} images occur twice, the first is {repeated.iloc[0]!r}"
        )
    return [
        Item(
            row[image_id or image],
            _absolute(row[image], base),
            None if label is None else row[label] or None,
            None if group is None else row[group] or None,
            {name: row[name] for name in slices},
        )
        for row in table.to_dict("records")
    ]


def _absolute(path: str, base: str) -> str:
    if "://" in path or path.startswith("/"):
        return path
    return posixpath.join(base, path)
