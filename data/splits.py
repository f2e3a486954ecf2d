"""Splits and nested subsets as pure functions of ids, labels, groups and a seed."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from semigrid.data.schema import Split


def order_key(name: str, seed: int) -> tuple[bytes, str]:
    """Sorts names into a shuffled order that any machine and library version repeats."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest(), name


def seeded_order(ids: Sequence[str], seed: int) -> list[int]:
    """Positions of ``ids`` in the order of ``order_key``."""
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

    Test gets the same number of images of every class, train and val keep the natural
    distribution, and a group never straddles two splits (method: about 75/15/10).
    Raises ``ValueError`` when no class-balanced test set of at least one image a class exists.
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
        per_class = reached  # groups too large for the quota: an equal, smaller test set
    if per_class <= 0:
        rarest = int(class_counts.argmin())
        raise ValueError(
            f"no class-balanced test set: class {rarest} has {class_counts[rarest]} labelled "
            f"images; every class needs 2 or more, {test_share:.0%} of the images must be at "
            "least one per class, and groups must be smaller than a class's part"
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
    """Takes whole groups in order while they fit into the quota of images per class."""
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
    """How many of a class's images a fraction takes: ``fraction · images`` rounded half up."""
    return int(fraction * images + Fraction(1, 2))


def empty_classes(fraction: Fraction, counts: dict[str, int]) -> list[str]:
    """Classes that a label fraction leaves without a single training image."""
    return [name for name, images in counts.items() if images_at(fraction, images) == 0]


def label_subset(labels: np.ndarray, fraction: Fraction) -> np.ndarray:
    """Sorted rows of the label fraction: of each class the first ones in stored order.

    Subsets are nested: a smaller fraction's rows are among a larger one's. A class of which the
    fraction takes no image is an error for the caller to refuse (``empty_classes``).
    """
    rows = [
        np.flatnonzero(labels == c)[: images_at(fraction, int((labels == c).sum()))]
        for c in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)


def pool_subset(pool_unit: int, multiplier: Fraction) -> int:
    """Number of pool rows that a multiplier takes: a prefix of the stored order."""
    return int(multiplier * pool_unit)
