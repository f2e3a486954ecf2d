"""Decides which images a dataset keeps, and in which split, with pure functions of facts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.errors import InputError
from semigrid.data.precision import few_names
from semigrid.data.schema import POOL, Split
from semigrid.data.splits import quota_of_test, split_labeled

# of given splits: the training side gives way
RANKS: dict[Split, int] = {POOL: 0, "train": 1, "val": 2, "test": 3}
# what happens to classes that are too rare
Rare = Literal["refuse", "pool", "drop"]


@dataclass(frozen=True)
class Facts:
    """Facts about a usable image: ``pixels`` is equal for exact duplicates.

    ``given`` is the split that the source gives, and ``split`` where an image that is kept belongs.
    """

    image_id: str
    label: str | None
    group: str
    pixels: str
    split: Split = POOL
    given: Split | None = None

    @property
    def rank(self) -> int:
        """The higher, the sooner this image stays, of those that must not be in two splits."""
        return RANKS[self.given or "train"]


@dataclass
class Curation:
    """The images kept, sorted by id, the classes, and the reasons for leaving others out.

    ``duplicates`` maps images left out to the image kept in their place. ``conflicts`` lists
    duplicates with different labels, which lose their label and join the pool. ``beside_labeled``
    lists pool images left out because a labelled image is in their group. ``rare`` has the images
    of classes that were too rare, which joined the pool or were left out. ``missed`` has the
    classes of which test has more or fewer images than its quota, since groups stay together.

    ``across`` lists images that were in one given split and are left out, since a duplicate or an
    image of their group is in another. ``drawn`` names splits that were drawn beside given ones.
    """

    classes: tuple[str, ...] = ()
    images: list[Facts] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    beside_labeled: list[str] = field(default_factory=list)
    rare: dict[str, list[str]] = field(default_factory=dict)
    missed: dict[str, dict[str, int]] = field(default_factory=dict)
    across: list[dict[str, str]] = field(default_factory=list)
    drawn: list[Split] = field(default_factory=list)


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

    Given splits are kept, but for images whose duplicates or groups are in another: those of train
    leave before those of val, and those of test stay. Splits that are not given are drawn from
    train and from the images without a split. The result does not depend on the order of ``facts``.

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
    kept = _on_one_side(kept, result)
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
    """The exact duplicate to keep: the first one with a label, or else the first.

    Of those in several given splits only the ones in the highest count.
    """
    labeled = [image for image in copies if image.label is not None]
    labeled = [image for image in labeled if image.rank == max(c.rank for c in labeled)]
    labels = {image.label for image in labeled}
    stays = (labeled or copies)[0]
    result.duplicates |= {c.image_id: stays.image_id for c in copies if c is not stays}
    for copy in copies:
        _note_across(copy, stays, "duplicate", result)
    if len(labels) > 1:
        result.conflicts.append({c.image_id: str(c.label) for c in labeled})
        return replace(stays, label=None)
    return stays


def _note_across(gone: Facts, stays: Facts, why: str, result: Curation) -> None:
    """Notes an image that is left out if another given split has one that is the same thing."""
    if gone.given is not None and stays.given not in (None, gone.given):
        found = {"left_out": gone.image_id, "of": gone.given, "stays": stays.image_id}
        result.across.append({**found, "in": str(stays.given), "why": why})


def _on_one_side(kept: list[Facts], result: Curation) -> list[Facts]:
    """The images without labelled ones whose group is in a higher given split.

    Labelled images without a given split follow their group.
    """
    highest: dict[str, Facts] = {}
    for image in kept:
        if image.label is not None and image.given is not None:
            before = highest.setdefault(image.group, image)
            highest[image.group] = max(before, image, key=lambda each: each.rank)
    stay = []
    for image in kept:
        top = highest.get(image.group)
        if image.label is None or top is None or image.given == top.given:
            stay.append(image)
        elif image.given is None:
            stay.append(replace(image, given=top.given))
        else:
            _note_across(image, top, "group", result)
    return stay


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
    train and in test: one group has all of the class, or a given split has none of it.
    """
    images = Counter(image.label for image in kept)
    source = {(image.label, image.group) for image in kept if image.given in (None, "train")}
    groups = Counter(label for label, _ in source)
    tested = {image.label for image in kept if image.given == "test"} - {None}
    if not any(groups[name] for name in result.classes):
        raise InputError(
            "no labelled image is in train: the given splits have none there; draw all splits anew "
            "with --splits new"
        )
    few = {
        name
        for name in result.classes
        if images[name] < least
        or (groups[name] < 1 or name not in tested if tested else groups[name] < 2)
    }
    if not few:
        return kept
    instead = ", or draw all splits anew with --splits new" if tested else ""
    why = "or none in the given train or test" if tested else "or all in one group"
    numbers = few_names({name: images[name] for name in sorted(few, key=lambda n: (images[n], n))})
    if rare == "refuse":
        raise InputError(
            f"{len(few):,} of {len(result.classes):,} classes have fewer than {least:,} labelled "
            f"images, {why}, so they cannot be in train and in test: {numbers} images; label more "
            "of them, or give --rare pool (their images join the pool) or --rare drop (their "
            f"images are left out){instead}"
        )
    result.classes = tuple(name for name in result.classes if name not in few)
    if len(result.classes) < 2:
        raise InputError(
            f"fewer than two classes have {least:,} labelled images that can be in train and in "
            f"test; rare are {numbers} images; label more, or give a lower --min-per-class"
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
    given = {image.given for image in labeled} - {None}
    drawn: list[Split] = [split for split in ("val", "test") if split not in given]
    result.drawn = drawn if given else []
    val_share, test_share = val_share * ("val" in drawn), test_share * ("test" in drawn)
    index = {name: number for number, name in enumerate(result.classes)}
    source = [image for image in labeled if image.given in (None, "train")]
    labels = [index[str(image.label)] for image in source]
    groups = [image.group for image in source]
    splits = split_labeled(labels, groups, len(index), seed, val_share, test_share)
    if test_share:
        quota = quota_of_test(np.bincount(labels, minlength=len(index)), test_share).tolist()
        got = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
        result.missed = {
            name: {"quota": quota[number], "images": got[number]}
            for name, number in index.items()
            if got[number] != quota[number]
        }
    split_of: dict[str, Split] = {i.group: i.given for i in labeled if i.given is not None}
    split_of |= dict(zip(groups, splits, strict=True))
    _check_splits(labeled, split_of, result.classes, val_share, test_share)
    return split_of


def _check_splits(
    labeled: Sequence[Facts],
    split_of: Mapping[str, Split],
    classes: Sequence[str],
    val_share: float,
    test_share: float,
) -> None:
    """Raises ``InputError`` unless val has an image, and train and test one of every class."""
    there = {(split_of[image.group], image.label) for image in labeled}
    lacks = [
        f"the class {name!r} in {split}"
        for name in classes
        for split in ("train", "test")
        if (split, name) not in there
    ]
    if "val" not in split_of.values():
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
