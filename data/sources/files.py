"""Images that lie in files: folders of class folders, and tables with paths or URLs."""

import posixpath
from collections.abc import Iterable

from semigrid.data.errors import InputError
from semigrid.data.sources.items import SUFFIXES, Item
from semigrid.data.storage import open_storage
from semigrid.data.tables import read_table


def folder_items(uri: str, labeled: bool = True) -> list[Item]:
    """Images below a folder: ``root/<class>/…`` if labelled, any depth below the class.

    Raises ``InputError`` where there is no image, or a labelled one lies outside class folders.
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
                f"{uri}: {name} lies beside the class folders; images are expected in "
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
    """Images of a CSV or Parquet table, one row each, with a column of paths or URLs.

    Args:
        image: the column of paths or URLs; relative paths count from ``root``.
        label: the column of labels, empty for an image without one; None: the table has none.
        image_id: the column of ids, by default the path.
        group, slices: columns, see ``Item``.
        root: by default the table's folder.

    Raises:
        InputError: naming the column or row.
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
            f"{uri}: {len(repeated)} images stand in it twice, the first is {repeated.iloc[0]!r}"
        )
    none: list[None] = [None] * len(table)
    labels = none if label is None else table[label].tolist()
    groups = none if group is None else table[group].tolist()
    columns = {name: table[name].tolist() for name in slices}
    return [
        Item(
            name,
            _absolute(path, base),
            labels[row] or None,
            groups[row] or None,
            {column: values[row] for column, values in columns.items()},
        )
        for row, (name, path) in enumerate(zip(ids, table[image], strict=True))
    ]


def _absolute(path: str, base: str) -> str:
    if "://" in path or path.startswith("/"):
        return path
    return posixpath.join(base, path)
