"""Decides which images a dataset keeps, and in which split, with pure functions of facts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scipy.cluster.hierarchy import DisjointSet

from semigrid.data.errors import InputError
from semigrid.data.schema import POOL, Split
from semigrid.data.splits import split_labeled


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
    lists pool images left out because a labelled image is in their group.
    """

    classes: tuple[str, ...] = ()
    images: list[Facts] = field(default_factory=list)
    duplicates: dict[str, str] = field(default_factory=dict)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    beside_labeled: list[str] = field(default_factory=list)


def curate(
    facts: Sequence[Facts],
    *,
    seed: int = 0,
    val_share: float = 0.15,
    test_share: float = 0.10,
    classes: Sequence[str] | None = None,
) -> Curation:
    """Merges exact duplicates, joins the groups that they connect, and splits.

    The result does not depend on the order of ``facts``.

    Args:
        classes: the classes in order; by default the sorted labels of the images.

    Raises:
        InputError: fewer than two classes, labels outside ``classes``, no class-balanced test set,
            or a split or class without images.
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
    split_of = _splits(kept, result.classes, seed, val_share, test_share)
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


def _splits(
    kept: list[Facts], classes: Sequence[str], seed: int, val_share: float, test_share: float
) -> dict[str, Split]:
    """The split of each group that has labelled images."""
    labeled = [image for image in kept if image.label is not None]
    index = {name: number for number, name in enumerate(classes)}
    labels = [index[str(image.label)] for image in labeled]
    groups = [image.group for image in labeled]
    counts = Counter(image.label for image in labeled)
    try:
        splits = split_labeled(labels, groups, len(classes), seed, val_share, test_share)
    except ValueError as error:
        rarest = ", ".join(f"{name} {count}" for name, count in counts.most_common()[::-1][:5])
        raise InputError(f"{error} (images by class, fewest first: {rarest})") from error
    largest = Counter(groups).most_common(1)[0][1]
    trained = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    empty = next((name for name in classes if index[name] not in trained), None)
    if "val" not in splits or empty is not None:
        what = "val" if "val" not in splits else f"the class {empty!r} in train"
        raise InputError(
            f"no image is left for {what}: val_share is {val_share:g} and test_share "
            f"{test_share:g} of {len(labeled):,} labelled images, the rarest class has "
            f"{min(counts.values()):,}, and the largest group, which stays together, "
            f"{largest:,}; give other shares, more labels or smaller groups"
        )
    return dict(zip(groups, splits, strict=True))
