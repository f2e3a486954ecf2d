"""Splits and nested subsets as pure functions of ids, labels, groups and a seed."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from semigrid.data.schema import Split


def order_key(name: str, seed: int) -> tuple[bytes, str]:
    """A sort key for a seeded shuffle that is the same on every machine and library version."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest(), name


def seeded_order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of the ids, sorted by ``order_key``."""
    return sorted(range(len(ids)), key=lambda position: order_key(ids[position], seed))


def split_labeled(
    labels: Sequence[int],
    groups: Sequence[str],
    num_classes: int,
    seed: int,
    val_share: float = 0.15,
    test_share: float = 0.10,
) -> list[Split]:
    """Assigns ``train``, ``val`` or ``test`` to every labelled image.

    The test split has the same number of images of every class. Train and val keep the natural
    distribution of classes. All images of a group are in the same split.

    Args:
        labels: class index of each image.
        groups: group name of each image.
        val_share, test_share: shares of all images, from 0 to 1.

    Raises:
        ValueError: no class-balanced test split with at least one image per class exists.
    """
    label_array = np.asarray(labels)
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    names = list(members)
    in_order = [members[names[i]] for i in seeded_order(names, seed)]
    class_counts = np.bincount(label_array, minlength=num_classes)

    per_class = min(int(test_share * len(label_array) / num_classes), int(class_counts.min()) // 2)
    taken: set[int] = set()
    while per_class > 0:
        taken = _fill(in_order, label_array, np.full(num_classes, per_class), set())
        reached = int(np.bincount(label_array[sorted(taken)], minlength=num_classes).min())
        if reached == per_class:
            break
        per_class = reached  # groups exceed the quota: try a smaller test split
    if per_class <= 0:
        raise ValueError(
            f"no class-balanced test set: the rarest class has {class_counts.min()} labelled "
            f"images; every class needs at least 2, {test_share:.0%} of the images must give "
            "every class at least one, and no group may hold too much of a class"
        )
    test = taken
    val_quota = np.floor(val_share * class_counts + 0.5).astype(int)
    val = _fill(in_order, label_array, val_quota, test)
    return [
        "test" if i in test else "val" if i in val else "train" for i in range(len(label_array))
    ]


def _fill(
    groups: list[list[int]], labels: np.ndarray, quota: np.ndarray, excluded: set[int]
) -> set[int]:
    """Positions of the whole groups that fit, in order, into a quota of images per class."""
    left = quota.copy()
    taken: set[int] = set()
    for group in groups:
        if group[0] in excluded:
            continue
        need = np.bincount(labels[group], minlength=len(left))
        if (need <= left).all():
            left -= need
            taken.update(group)
    return taken


def images_at(fraction: Fraction, images: int) -> int:
    """Number of a class's images in a label fraction: ``fraction · images``, rounded half up."""
    return int(fraction * images + Fraction(1, 2))


def empty_classes(fraction: Fraction, counts: dict[str, int]) -> list[str]:
    """Classes with no training image at a label fraction; ``counts`` has images by class."""
    return [name for name, images in counts.items() if images_at(fraction, images) == 0]


def label_subset(labels: np.ndarray, fraction: Fraction) -> np.ndarray:
    """Sorted rows of a label fraction: the first rows of each class in stored order.

    Subsets are nested: a larger fraction contains the rows of every smaller one. Callers refuse
    fractions that leave a class without images (``empty_classes``).
    """
    rows = [
        np.flatnonzero(labels == c)[: images_at(fraction, int((labels == c).sum()))]
        for c in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)


def pool_subset(pool_unit: int, multiplier: Fraction) -> int:
    """Number of pool images at an unlabelled multiplier; they are the first in stored order."""
    return int(multiplier * pool_unit)
