"""Splits that a source comes with: folders, files and columns that name train, val and test."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import and_

from semigrid.data.errors import InputError
from semigrid.data.schema import POOL, Split
from semigrid.data.sources.items import Item
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage.address import common_folder

# what people call the splits, in lower case; val is drawn from trainval
NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised", "pool"), POOL),
}
FOUND_COLUMN = "split"  # of tables and image Parquet, in any case


def splits_in_words(names: Iterable[str]) -> dict[str, Split | None]:
    """The split that each name has among its words, if it has just one: ``shop-train-0003.tar``.

    Words that all of the names have do not count: they are the data's name, as in
    ``dev-kit-train`` beside ``dev-kit-test``.
    """
    words = {name: Counter(re.split(r"[^a-z]+", name.lower())) for name in names}
    shared: Counter[str] = reduce(and_, words.values()) if words else Counter()
    named = {n: {NAMES[w] for w in found - shared if w in NAMES} for n, found in words.items()}
    return {name: found.pop() if len(found) == 1 else None for name, found in named.items()}


def splits_in(names: Iterable[str]) -> dict[str, Split | None]:
    """The split that each name of a folder, or value of a column, is, or has among its words.

    Words count only where every name has one, as in ``train2017`` and ``test2017``: those of some
    names may be a class's, as in ``training shoes``.
    """
    in_words = splits_in_words(names)
    if None not in in_words.values():
        return in_words
    return {name: NAMES.get(name.lower()) for name in in_words}


def kept_splits(
    uri: str, found: Mapping[str, Split | None], what: str, advice: str, left_out: LeftOut
) -> dict[str, Split]:
    """The split of each name if at least two splits are ``found``, or else none.

    ``left_out`` receives a name that looks like a split and is none. Raises ``InputError`` where
    two splits are found, and others of the names are none.
    """
    splits = {name: split for name, split in found.items() if split is not None}
    others = [name for name in found if name not in splits]
    if len({*splits.values()}) > 1 and others:
        raise InputError(
            f"{uri}: the {what} {', '.join([*splits][:4])} look like splits, but {others[0]!r} "
            f"does not; {advice}"
        )
    if len({*splits.values()}) > 1:
        return splits
    in_words = splits_in_words(found)
    alike = [name for name, split in in_words.items() if split is not None]
    if alike and len(alike) < len(found):
        other = next(name for name in found if name not in alike)
        left_out.notes.append(
            f"all splits are drawn: of the {what} {alike[0]!r} looks like a split, but {other!r} "
            "does not"
        )
    return {}


def found_column(names: Iterable[str]) -> str | None:
    """The column that is used without being asked for, if there is just one of this name."""
    columns = [name for name in names if name.strip().lower() == FOUND_COLUMN]
    return columns[0] if len(columns) == 1 else None


def splits_of_column(
    values: Mapping[str, Sequence[str]], column: str, asked: bool, left_out: LeftOut
) -> list[Split | None]:
    """The split of each row, one file after the other; None where the value is blank.

    Empty where the column was not asked for but found, and names fewer than two splits.

    Args:
        values: those of the column, by file.
        left_out: receives a column that is not used.

    Raises ``InputError`` for a value that is no split.
    """
    distinct = {value.strip() for of_file in values.values() for value in of_file}
    found = splits_in(sorted(distinct - {""}))
    named = {split for split in found.values() if split is not None}
    odd = next((value for value, split in found.items() if split is None), None)
    if not asked and len(named) < 2 and odd is not None:
        left_out.notes.append(
            f"all splits are drawn: the column {column!r} does not hold splits, but {odd[:80]!r}"
            + "".join(f" beside {split}" for split in named)
        )
        return []
    if not asked and len(distinct) < 2:
        return []
    for uri, of_file in values.items():
        for row, value in enumerate(map(str.strip, of_file), 1):
            if value and found[value] is None:
                raise InputError(
                    f"{uri}: row {row} has the split {value[:80]!r}; allowed are "
                    f"{', '.join(NAMES)}, and blank for images whose split is to be drawn; correct "
                    "it, or draw all splits anew with --splits new"
                )
    return [found.get(value.strip()) for of_file in values.values() for value in of_file]


def splits_of_files(uri: str, items: Sequence[Item], left_out: LeftOut) -> list[Item]:
    """The images with the splits that the names of their tars or Parquet files give.

    Where the files' names give none, those of their folders do, at any depth below the folder that
    all files share. ``left_out`` receives a name that looks like a split and is none. Raises
    ``InputError`` where some files are in no split.
    """
    parts = {item.uri: item.uri.split("/") for item in items}
    found = {-1: splits_in_words(sorted({p[-1] for p in parts.values()})), **_by_level(parts)}
    level = next((n for n, names in found.items() if len({*names.values()} - {None}) > 1), -1)
    what = "files" if level == -1 else "folders"
    advice = "move it away, or draw all splits anew with --splits new"
    splits = kept_splits(uri, found[level], what, advice, left_out)
    return [replace(item, split=splits.get(parts[item.uri][level])) for item in items]


def note_folders(items: Sequence[Item], left_out: LeftOut) -> None:
    """Says where a table's images lie in folders that look like splits: only a column gives any."""
    for names in _by_level({item.uri: item.uri.split("/") for item in items}).values():
        splits = [name for name, split in names.items() if split is not None]
        if len({names[name] for name in splits}) > 1:
            left_out.notes.append(
                f"all splits are drawn: the images lie in folders that look like splits "
                f"({', '.join(splits[:4])}), but the table has no column that says so; add one, "
                f"named {FOUND_COLUMN!r}, to keep them"
            )
            return


def _by_level(parts: Mapping[str, Sequence[str]]) -> dict[int, dict[str, Split | None]]:
    """What the folders of each level below the one that all files share name.

    Args:
        parts: the parts of each address, by address.
    """
    depth = len(common_folder(parts).split("/"))
    levels = range(depth, min(map(len, parts.values()), default=0) - 1)
    return {level: splits_in_words(sorted({p[level] for p in parts.values()})) for level in levels}


def splits_of_folders(
    uri: str, items: Sequence[Item], left_out: LeftOut, *, labeled: bool
) -> list[Item] | None:
    """The images with the splits that folders above the class folders give, or None without any.

    With ``labeled``, labels are the names of the second folders or, where all splits have the same
    single one, as in ``train/images/<class>/``, of the third; a split without class folders has
    none. ``left_out`` receives a folder that looks like a split and is none, and is told of such a
    layer. Raises ``InputError`` for a labelled split's image outside its class folders, and where
    all splits have one and the same class.
    """
    parts = [item.image_id.split("/") for item in items]
    advice = "move it away, or name all of them as classes in a YAML file"
    advice = advice if labeled else "move it away, or draw all splits anew with --splits new"
    found = splits_in(sorted({p[0] for p in parts if p[1:]}))
    splits = kept_splits(uri, found, "folders", advice, left_out)
    if not splits:
        return None
    if not labeled:
        return [replace(i, split=splits.get(p[0])) for i, p in zip(items, parts, strict=True)]
    with_classes = {p[0] for p in parts if len(p) > 2 and splits[p[0]] != POOL}
    if not with_classes:
        return None
    below = [rest for top, *rest in parts if top in with_classes]
    second = {rest[0] for rest in below}
    layer = int(len(second) == 1 and all(len(rest) > 2 for rest in below))
    if layer:
        example = f"{uri}/{min(with_classes)}/{min(second)}"
        left_out.notes.append(f"labels are the folders in {example}, likewise in other splits")
    elif len(second) == 1:
        one = min(second)
        raise InputError(
            f"{uri}: every split has the folder {one!r} alone, in which there are no class "
            f"folders; put labelled images into {uri}/{min(with_classes)}/<class>/ or "
            f"{uri}/{min(with_classes)}/{one}/<class>/"
        )
    given = []
    for item, (top, *rest) in zip(items, parts, strict=True):
        if top in with_classes and len(rest) < 2:
            raise InputError(
                f"{uri}: {item.image_id} is outside the class folders of the split {top!r}; put it "
                f"into {uri}/{top}/<class>/, or into {uri}/unlabeled/ if it has no label"
            )
        label = rest[layer] if top in with_classes else None
        given.append(replace(item, label=label, split=splits[top]))
    return given
