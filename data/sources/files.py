"""Images in files of their own: folders of class folders, and tables of paths or URLs."""

from collections.abc import Sequence

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.data.sources.items import SUFFIXES, Item
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import beside, ids_in
from semigrid.data.tables import check_columns, read_table


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
        InputError: the table lacks a column or path, an id occurs twice, or a table from elsewhere
            names a file on this machine.
    """
    table = read_table(uri)
    needed = (image, label, image_id, group, *slices)
    check_columns(uri, table.columns, [name for name in needed if name is not None])
    empty = table[image] == ""
    if empty.any():
        raise InputError(f"{uri}: row {empty.argmax() + 1} has no {image}")
    ids = table[image_id] if image_id else pd.Series(ids_in(uri, list(table[image])), dtype=str)
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{uri}: {len(repeated)} images occur twice, the first is {repeated.iloc[0]!r}"
        )
    return [
        Item(
            name,
            beside(uri, row[image]),
            None if label is None else row[label] or None,
            None if group is None else row[group] or None,
            {name: row[name] for name in slices},
        )
        for name, row in zip(ids, table.to_dict("records"), strict=True)
    ]
