"""Decides which images a dataset keeps, and in which split, with pure functions of facts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.errors import InputError
from semigrid.data.precision import few_names
from semigrid.data.schema import POOL, Split
from semigrid.data.splits import quota_of_test, split_labeled

# what happens to classes that are too rare
Rare = Literal["refuse", "pool", "drop"]


@dataclass(frozen=True)
class Facts:
    """Facts about a usable image: ``pixels`` is equal for exact duplicates.

    ``split`` is where an image that is kept belongs.
    """

    image_id: str
    label: str | None
    group: str
    pixels: str
    split: Split = POOL


@dataclass
class Curation:
    """The images kept, sorted by id, the classes, and the reasons for leaving others out.

    ``duplicates`` maps images left out to the image kept in their place. ``conflicts`` lists
    duplicates with different labels, which lose their label and join the pool. ``beside_labeled``
    lists pool images left out because a labelled image is in their group. ``rare`` has the images
    of classes that were too rare, which joined the pool or were left out. ``missed`` has the
    classes of which test has more or fewer images than its quota, since groups stay together.
    """

    classes: tuple[str, ...] = ()
    images: list[Facts] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    beside_labeled: list[str] = field(default_factory=list)
    rare: dict[str, list[str]] = field(default_factory=dict)
    missed: dict[str, dict[str, int]] = field(default_factory=dict)


def curate(
    facts: Sequence[Facts],
    *,
    seed: int = 0,
    val_share: float = 0.15,
    test_share: float = 0.10,
    classes: Sequence[str] | None = None,
    min_per_class: int = 2,
    rare: Rare = "refuse",
) -> Curation:
    """Merges exact duplicates, joins the groups that they connect, and splits.

    The result does not depend on the order of ``facts``.

    Args:
        classes: the classes in order; by default the sorted labels of the images.
        min_per_class: labelled images that a class needs.
        rare: what happens to classes with fewer, or with a single group.

    Raises:
        InputError: fewer than two classes, labels outside ``classes``, a class that is too rare, or
            a split or class without images.
    """
    result = Curation()
    in_order = sorted(facts, key=lambda image: image.image_id)
    joined = DisjointSet(image.group for image in in_order)
    same: dict[str, list[Facts]] = {}
    for image in in_order:
        same.setdefault(image.pixels, []).append(image)
    kept: list[Facts] = []
    for copies in same.values():
        for other in copies[1:]:
            joined.merge(copies[0].group, other.group)
        kept.append(_merged(copies, result))
    name_of: dict[str, str] = {}
    for together in joined.subsets():
        name_of |= dict.fromkeys(together, min(together))
    kept = [replace(image, group=name_of[image.group]) for image in kept]
    kept.sort(key=lambda image: image.image_id)
    labels = {image.label for image in kept if image.label is not None}
    result.classes = tuple(sorted(labels) if classes is None else classes)
    _check_classes(labels, result.classes)
    kept = _without_rare(kept, min_per_class, rare, result)
    split_of = _splits(kept, result, seed, val_share, test_share)
    for image in kept:
        split = split_of.get(image.group, POOL)
        if image.label is None and split != POOL:
            result.beside_labeled.append(image.image_id)
        else:
            result.images.append(replace(image, split=split))
    return result


def _merged(copies: list[Facts], result: Curation) -> Facts:
    """The exact duplicate to keep: the first one with a label, or else the first."""
    labeled = [image for image in copies if image.label is not None]
    labels = {image.label for image in labeled}
    stays = (labeled or copies)[0]
    result.duplicates |= {c.image_id: stays.image_id for c in copies if c is not stays}
    if len(labels) > 1:
        result.conflicts.append({c.image_id: str(c.label) for c in labeled})
        return replace(stays, label=None)
    return stays


def _check_classes(labels: set[str], classes: Sequence[str]) -> None:
    if unknown := sorted(labels - {*classes}):
        raise InputError(f"the label {unknown[0]!r} is not among the classes: {', '.join(classes)}")
    if not labels:
        raise InputError("no image has a label, so there is nothing to train and evaluate on")
    if len(classes) < 2:
        raise InputError(f"all labels are {classes[0]!r}, but a classifier needs two classes")
    if missing := [name for name in classes if name not in labels]:
        raise InputError(f"the class {missing[0]!r} has no image")


def _without_rare(kept: list[Facts], least: int, rare: Rare, result: Curation) -> list[Facts]:
    """The images without those of rare classes, or with them unlabelled.

    Rare are classes that have fewer than ``least`` labelled images, and those that cannot be in
    train and in test: one group has all of the class.
    """
    images = Counter(image.label for image in kept)
    groups = {(image.label, image.group) for image in kept}
    parts = Counter(label for label, _ in groups)
    few = {name for name in result.classes if images[name] < least or parts[name] < 2}
    if not few:
        return kept
    numbers = few_names({name: images[name] for name in sorted(few, key=lambda n: (images[n], n))})
    if rare == "refuse":
        raise InputError(
            f"{len(few):,} of {len(result.classes):,} classes have fewer than {least:,} labelled "
            f"images, or all in one group, so they cannot be in train and in test: {numbers} "
            "images; label more of them, or give --rare pool (their images join the pool) or "
            "--rare drop (their images are left out)"
        )
    result.classes = tuple(name for name in result.classes if name not in few)
    if len(result.classes) < 2:
        raise InputError(
            f"fewer than two classes have {least:,} labelled images in two groups or more; rare "
            f"are {numbers} images; label more, or give a lower --min-per-class"
        )
    for name in sorted(few):
        result.rare[name] = [image.image_id for image in kept if image.label == name]
    if rare == "drop":
        return [image for image in kept if image.label not in few]
    return [replace(image, label=None) if image.label in few else image for image in kept]


def _splits(
    kept: list[Facts], result: Curation, seed: int, val_share: float, test_share: float
) -> dict[str, Split]:
    """The split of each group that has labelled images."""
    labeled = [image for image in kept if image.label is not None]
    index = {name: number for number, name in enumerate(result.classes)}
    labels = [index[str(image.label)] for image in labeled]
    groups = [image.group for image in labeled]
    splits = split_labeled(labels, groups, len(index), seed, val_share, test_share)
    counts = np.bincount(labels, minlength=len(index))
    got = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
    quota = quota_of_test(counts, test_share).tolist()
    result.missed = {
        name: {"quota": quota[number], "images": got[number]}
        for name, number in index.items()
        if got[number] != quota[number]
    }
    _check_splits(labeled, splits, result.classes, val_share, test_share)
    return dict(zip(groups, splits, strict=True))


def _check_splits(
    labeled: Sequence[Facts],
    splits: Sequence[Split],
    classes: Sequence[str],
    val_share: float,
    test_share: float,
) -> None:
    """Raises ``InputError`` unless val has an image, and train and test one of every class."""
    there = {(split, image.label) for split, image in zip(splits, labeled, strict=True)}
    lacks = [
        f"the class {name!r} in {split}"
        for name in classes
        for split in ("train", "test")
        if (split, name) not in there
    ]
    if "val" not in splits:
        lacks.insert(0, "val")
    if lacks:
        counts = Counter(image.label for image in labeled)
        largest = Counter(image.group for image in labeled).most_common(1)[0][1]
        raise InputError(
            f"no image is left for {lacks[0]}: val_share is {val_share:g} and test_share "
            f"{test_share:g} of {len(labeled):,} labelled images, the rarest class has "
            f"{min(counts.values()):,}, and the largest group, which stays together, "
            f"{largest:,}; give other shares, more labels or smaller groups"
        )
