"""Decides which images a dataset keeps, and in which split, with pure functions of facts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.builder.rare import NEW_SPLITS, causes_of_rare, refuse_rare
from semigrid.data.errors import InputError
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
    def side(self) -> Split:
        """The given split, or the one from which others are drawn: the pool without a label."""
        return self.given or (POOL if self.label is None else "train")

    @property
    def rank(self) -> int:
        """The higher, the sooner this image stays, of those that must not be in two splits."""
        return RANKS[self.side]


@dataclass
class Curation:
    """The images kept, sorted by id, the classes, and the reasons for leaving others out.

    ``duplicates`` maps images left out to the image kept in their place. ``conflicts`` lists the
    ``labels`` of duplicates that differ, and the one that the image ``keeps``: that of the highest
    given split, or None, and it joins the pool. ``beside_labeled`` lists pool images left out
    because a labelled image is in their group. ``rare`` has the images of classes that were too
    rare, which joined the pool or were left out. ``missed`` has the classes of which test has more
    or fewer images than its quota, since groups stay together.

    ``across`` lists images that are left out since a duplicate or an image of their group is in
    another split that is given. ``drawn`` names splits that were drawn beside given ones.
    """

    classes: tuple[str, ...] = ()
    images: list[Facts] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    beside_labeled: list[dict[str, str]] = field(default_factory=list)
    rare: dict[str, list[str]] = field(default_factory=dict)
    missed: dict[str, dict[str, int]] = field(default_factory=dict)
    across: list[dict[str, str | None]] = field(default_factory=list)
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
    leave before those of val, and those of test stay; none joins the given val or test. Splits that
    are not given are drawn from train and from the images without a split. The result does not
    depend on the order of ``facts``.

    Args:
        val_share, test_share: of the labelled images that val and test are drawn from.
        classes: the classes in order; by default the sorted labels of the images.
        min_per_class: labelled images that a class needs.
        rare: what happens to classes with fewer, or with none for train or test.

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
    labels = {image.label for image in facts if image.label is not None}
    result.classes = tuple(sorted(labels) if classes is None else classes)
    _check_classes(labels, result.classes)
    kept = _without_rare(kept, min_per_class, rare, result)
    split_of = _splits(kept, result, seed, val_share, test_share)
    labeled_in = {image.group: image.image_id for image in kept if image.label is not None}
    for image in kept:
        split = split_of.get(image.group, POOL)
        if image.label is None and split != POOL:
            beside = {"left_out": image.image_id, "stays": labeled_in[image.group], "in": split}
            result.beside_labeled.append(beside)
        else:
            result.images.append(replace(image, split=split))
    return result


def _merged(copies: list[Facts], result: Curation) -> Facts:
    """The exact duplicate to keep: the first one with a label, or else the first.

    Of those in several given splits it is one of the highest, with the label that it has there.
    """
    labeled = [image for image in copies if image.label is not None]
    rank = max((image.rank for image in labeled), default=0)
    highest = [image for image in labeled if image.rank == rank]
    stays = (highest or copies)[0]
    result.duplicates |= {c.image_id: stays.image_id for c in copies if c is not stays}
    for copy in copies:
        _note_across(copy, stays, "duplicate", result)
    labels = {image.image_id: image.label for image in labeled}
    if len({*labels.values()}) > 1:
        keeps = stays.label if len({image.label for image in highest}) == 1 else None
        result.conflicts.append({"labels": labels, "keeps": keeps})
        return replace(stays, label=keeps)
    return stays


def _note_across(gone: Facts, stays: Facts, why: str, result: Curation) -> None:
    """Notes an image that is left out if another given split has one that is the same thing."""
    if stays.given is not None and gone.side != stays.side:
        of = gone.given or (POOL if gone.label is None else None)
        found = {"left_out": gone.image_id, "of": of, "stays": stays.image_id}
        result.across.append({**found, "in": stays.given, "why": why})


def _on_one_side(kept: list[Facts], result: Curation) -> list[Facts]:
    """The images without labelled ones whose group is in a higher given split.

    Those without a split leave, too, for a given val or test does not grow.
    """
    highest: dict[str, Facts] = {}
    for image in kept:
        if image.label is not None and image.given is not None:
            before = highest.setdefault(image.group, image)
            highest[image.group] = max(before, image, key=lambda each: each.rank)
    stay = []
    for image in kept:
        top = highest.get(image.group)
        if image.label is None or top is None or image.rank == top.rank:
            stay.append(image)
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

    Raises ``InputError`` for classes that are too rare, unless they are to go and two are left.
    """
    images = Counter(image.label for image in kept if image.label is not None)
    groups = Counter(
        label
        for label, _ in {(i.label, i.group) for i in kept if i.side == "train"}
        if label is not None
    )
    tested = {i.label for i in kept if i.given == "test" and i.label is not None}
    if images and not groups:
        raise InputError(
            f"no labelled image is in train: the given splits have none there; {NEW_SPLITS}"
        )
    causes = causes_of_rare(result.classes, images, groups, tested, least)
    refuse_rare(causes, result.classes, images, asked=rare != "refuse")
    few = {name for cause in causes for name in cause.classes}
    result.classes = tuple(name for name in result.classes if name not in few)
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
    asked: dict[Split, float] = {"val": val_share, "test": test_share}
    shares = {split: share for split, share in asked.items() if split not in given}
    result.drawn = [*shares] if given else []
    index = {name: number for number, name in enumerate(result.classes)}
    source = [image for image in labeled if image.side == "train"]
    labels = [index[str(image.label)] for image in source]
    groups = [image.group for image in source]
    of = shares.get("val", 0.0), shares.get("test", 0.0)
    splits = split_labeled(labels, groups, len(index), seed, *of)
    if "test" in shares:
        quota = quota_of_test(np.bincount(labels, minlength=len(index)), test_share).tolist()
        got = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
        result.missed = {
            name: {"quota": quota[number], "images": got[number]}
            for name, number in index.items()
            if got[number] != quota[number]
        }
    split_of: dict[str, Split] = {i.group: i.given for i in labeled if i.given is not None}
    split_of |= dict(zip(groups, splits, strict=True))
    _check_splits(labeled, split_of, result.classes, shares)
    return split_of


def _check_splits(
    labeled: Sequence[Facts],
    split_of: Mapping[str, Split],
    classes: Sequence[str],
    shares: Mapping[Split, float],
) -> None:
    """Raises ``InputError`` unless val has an image, and train and test one of every class.

    ``shares`` are those of the splits that were drawn.
    """
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
        source = [image for image in labeled if image.side == "train"]
        counts = Counter(image.label for image in source)
        largest = Counter(image.group for image in source).most_common(1)[0][1]
        asked = " and ".join(f"{split}_share {share:g}" for split, share in shares.items())
        raise InputError(
            f"no image is left for {lacks[0]}: of {len(source):,} labelled images to draw from, by "
            f"{asked}, the rarest class has {min(counts.values()):,}, and the largest group, which "
            f"stays together, {largest:,}; give other shares, more labels or smaller groups"
        )
