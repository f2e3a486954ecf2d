"""Splits that a source comes with: folders, files and columns that name train, val and test."""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from semigrid.data.errors import InputError
from semigrid.data.schema import POOL, Split
from semigrid.data.sources.items import Item

# what people call the splits, in lower case
NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised", "pool"), POOL),
}


def split_in_name(name: str) -> Split | None:
    """The split in a file's name such as ``imagenet-train-0003.tar``, if it names just one."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {NAMES[word] for word in words if word in NAMES}
    return found.pop() if len(found) == 1 else None


def splits_named(
    uri: str, names: Iterable[str], split_of: Callable[[str], Split | None], what: str, advice: str
) -> dict[str, Split]:
    """The split of each name; empty unless at least two splits are named.

    Raises ``InputError`` where two splits are named, and others of the names are none.
    """
    found = {name: split_of(name) for name in sorted({*names})}
    splits = {name: split for name, split in found.items() if split is not None}
    if len({*splits.values()}) < 2:
        return {}
    if others := [name for name in found if name not in splits]:
        raise InputError(
            f"{uri}: the {what} {', '.join([*splits][:4])} look like splits, but {others[0]!r} "
            f"does not; move it away, {advice}"
        )
    return splits


def splits_of_files(uri: str, items: Sequence[Item]) -> list[Item]:
    """The images with the splits that the names of their tars or Parquet files give."""
    file = {item.uri: posixpath.basename(item.uri) for item in items}
    advice = "or draw all splits anew with --splits new"
    splits = splits_named(uri, file.values(), split_in_name, "files", advice)
    return [replace(item, split=splits.get(file[item.uri])) for item in items]


def splits_of_folders(uri: str, items: Sequence[Item], *, labeled: bool) -> list[Item] | None:
    """The images with the splits that folders above the class folders give, or None without any.

    With ``labeled``, labels are the names of the second folders; a split without class folders has
    none. Raises ``InputError`` for a labelled split's image outside its class folders.
    """
    parts = [item.image_id.split("/") for item in items]
    advice = "or name all of them as classes in a YAML file"
    advice = advice if labeled else "or draw all splits anew with --splits new"
    splits = splits_named(uri, (p[0] for p in parts if p[1:]), _of_folder, "folders", advice)
    if not splits:
        return None
    if not labeled:
        return [replace(i, split=splits.get(p[0])) for i, p in zip(items, parts, strict=True)]
    with_classes = {p[0] for p in parts if len(p) > 2 and splits[p[0]] != POOL}
    if not with_classes:
        return None
    found = []
    for item, (top, *rest) in zip(items, parts, strict=True):
        if top in with_classes and len(rest) < 2:
            raise InputError(
                f"{uri}: {item.image_id} is outside the class folders of the split {top!r}; put it "
                f"into {uri}/{top}/<class>/, or into {uri}/unlabeled/ if it has no label"
            )
        label = rest[0] if top in with_classes else None
        found.append(replace(item, label=label, split=splits[top]))
    return found


def _of_folder(name: str) -> Split | None:
    return NAMES.get(name.lower())
