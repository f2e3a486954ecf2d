"""Splits and nested subsets as pure functions of ids, labels, groups and a seed."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from semigrid.data.schema import Split

# raise this number when the same images are split otherwise
SPLIT_VERSION = 2


def order_key(name: str, seed: int) -> tuple[bytes, str]:
    """A sort key for a seeded shuffle that is the same on every machine and library version."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest(), name


def seeded_order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of the ids, sorted by ``order_key``."""
    return sorted(range(len(ids)), key=lambda position: order_key(ids[position], seed))


def quota_of_test(counts: np.ndarray, test_share: float) -> np.ndarray:
    """Images of each class that test should have, from ``counts``, the labelled images by class.

    Every class has ``test_share`` · images / classes, rounded half up and at least one; where it
    is too rare for that, half of its own images, rounded down.
    """
    per_class = max(1, int(test_share * counts.sum() / len(counts) + 0.5))
    return (counts // 2).clip(max=per_class)


def split_labeled(
    labels: Sequence[int],
    groups: Sequence[str],
    num_classes: int,
    seed: int,
    val_share: float = 0.15,
    test_share: float = 0.10,
) -> list[Split]:
    """Assigns ``train``, ``val`` or ``test`` to every labelled image.

    Test has the same number of images of every class, or what a rare class can spare
    (``quota_of_test``). Train and val keep the natural distribution of classes. All images of a
    group are in the same split, so quotas of classes with large groups may be missed. A class of
    two groups and more is in train and in test, unless it shares its groups with others.

    Args:
        labels: class index of each image.
        groups: group name of each image.
        val_share, test_share: shares of all images, from 0 to 1; 0 leaves the split out.
    """
    label_array = np.asarray(labels)
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    names = list(members)
    in_order = [members[names[i]] for i in seeded_order(names, seed)]
    counts = np.bincount(label_array, minlength=num_classes)
    test: set[int] = set()
    if test_share:
        test = _fill(in_order, label_array, quota_of_test(counts, test_share), set())
        _complete(in_order, label_array, counts, test)
    in_test = np.bincount(label_array[sorted(test)], minlength=num_classes)
    # an image of each class stays for train, whatever the shares
    quota = np.minimum(np.floor(val_share * counts + 0.5).astype(int), counts - in_test - 1)
    val = _fill(in_order, label_array, quota.clip(min=0), test)
    return [
        "test" if i in test else "val" if i in val else "train" for i in range(len(label_array))
    ]


def _complete(
    groups: list[list[int]], labels: np.ndarray, counts: np.ndarray, test: set[int]
) -> None:
    """Gives each class that test lacks, for the size of its groups, the smallest of them.

    It takes none that would leave a class without an image for train.
    """
    left = counts - np.bincount(labels[sorted(test)], minlength=len(counts))
    for missing in range(len(counts)):
        if left[missing] < counts[missing]:
            continue
        having = (group for group in groups if (labels[group] == missing).any())
        for group in sorted(having, key=len):
            need = np.bincount(labels[group], minlength=len(counts))
            if (need < left)[need > 0].all():
                left -= need
                test.update(group)
                break


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
    """Number of a class's images in a label fraction: ``fraction · images``, rounded half up.

    It is at least one, where the class has any.
    """
    return max(min(1, images), int(fraction * images + Fraction(1, 2)))


def label_subset(labels: np.ndarray, fraction: Fraction) -> np.ndarray:
    """Sorted rows of a label fraction: the first rows of each class in stored order.

    Subsets are nested: a larger fraction contains the rows of every smaller one. Each class of the
    rows has at least one.
    """
    rows = [
        np.flatnonzero(labels == c)[: images_at(fraction, int((labels == c).sum()))]
        for c in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)


def pool_subset(pool_unit: int, multiplier: Fraction) -> int:
    """Number of pool images at an unlabelled multiplier; they are the first in stored order."""
    return int(multiplier * pool_unit)
