from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semigrid.data.schema import Split
from semigrid.data.splits import (
    images_at,
    label_subset,
    pool_subset,
    quota_of_test,
    seeded_order,
    split_labeled,
)

QUARTERS = [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1)]


def test_seeded_order_is_the_same_on_every_machine() -> None:
    # changing these orders changes every dataset's fingerprint and every subset
    assert seeded_order(["a", "b", "c", "d", "e", "f"], seed=0) == [5, 2, 1, 4, 3, 0]
    assert seeded_order(["a", "b", "c", "d", "e", "f"], seed=1) == [3, 4, 5, 0, 1, 2]


def test_seeded_order_does_not_depend_on_where_an_id_stands() -> None:
    ids = [f"image-{i}" for i in range(50)]
    shuffled = ids[::-1]
    assert [ids[i] for i in seeded_order(ids, 3)] == [
        shuffled[i] for i in seeded_order(shuffled, 3)
    ]


def test_split_by_hand() -> None:
    # 80 of class 0 and 20 of class 1: 10 % of 100 images are 5 a class, 15 % are 12 and 3
    labels = [0] * 80 + [1] * 20
    splits = split_labeled(labels, [str(i) for i in range(100)], num_classes=2, seed=0)
    assert Counter(zip(labels, splits, strict=True)) == {
        (0, "test"): 5,
        (1, "test"): 5,
        (0, "val"): 12,
        (1, "val"): 3,
        (0, "train"): 63,
        (1, "train"): 12,
    }


def in_test(labels: list[int], splits: list[Split]) -> Counter[int]:
    return Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")


def test_a_rare_class_gives_half_of_its_images_and_no_other_class_fewer() -> None:
    # 10 % of 200 are 10 a class, but class 1 has only 7 images
    labels = [0] * 193 + [1] * 7
    splits = split_labeled(labels, [str(i) for i in range(200)], num_classes=2, seed=0)
    assert in_test(labels, splits) == {0: 10, 1: 3}


def test_a_long_tail_of_33_000_images_has_over_six_per_cent_of_them_in_test() -> None:
    # 30 classes whose sizes fall by a sixth each, from a sixth of the images down to 0.07 %,
    # and one of two images
    sizes = [round(33_000 * 0.17456 * 0.826**place) for place in range(30)]
    assert round(100 * sizes[-1] / 33_000, 2) == 0.07
    sizes = [sizes[0] + 33_000 - sum(sizes) - 2, *sizes[1:], 2]
    labels = [name for name, images in enumerate(sizes) for _ in range(images)]
    splits = split_labeled(labels, [str(i) for i in range(len(labels))], len(sizes), seed=0)
    test = in_test(labels, splits)
    per_class = round(0.1 * len(labels) / 31)
    assert [test[name] for name in range(31)] == [min(per_class, n // 2) for n in sizes]
    assert sum(test.values()) >= 0.06 * len(labels)
    val = Counter(label for label, split in zip(labels, splits, strict=True) if split == "val")
    # val is natural: half up, and of two images one is in test and one in train
    assert [val[name] for name in range(31)] == [int(0.15 * n + 0.5) for n in sizes[:-1]] + [0]


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([80, 20], 0.1, [5, 5]),
        ([30, 30, 30], 0.15, [5, 5, 5]),  # 4.5, rounded half up
        ([4, 4], 0.1, [1, 1]),  # never less than one
        ([100, 3, 2, 1], 0.5, [13, 1, 1, 0]),  # 13.25; halves rounded down
    ],
)
def test_quotas_of_test_by_hand(counts: list[int], share: float, expected: list[int]) -> None:
    assert quota_of_test(np.array(counts), share).tolist() == expected


def test_a_class_whose_groups_are_all_too_large_gives_its_smallest() -> None:
    # class 1 should give 1 image, and has groups of 4, 3 and 5
    labels = [0] * 30 + [1] * 12
    groups = [str(n) for n in range(30)] + ["a"] * 4 + ["b"] * 3 + ["c"] * 5
    splits = split_labeled(labels, groups, num_classes=2, seed=0, test_share=0.04)
    assert in_test(labels, splits) == {0: 1, 1: 3}
    assert splits[34:37] == ["test"] * 3


def test_splits_change_with_the_seed_and_not_between_calls() -> None:
    labels, names = [0, 1] * 50, [str(i) for i in range(100)]
    assert split_labeled(labels, names, 2, seed=0) == split_labeled(labels, names, 2, seed=0)
    assert split_labeled(labels, names, 2, seed=0) != split_labeled(labels, names, 2, seed=1)


@given(
    groups=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=20, max_size=60),
    seed=st.integers(0, 1000),
)
def test_groups_never_straddle_and_test_is_balanced(groups: list[list[int]], seed: int) -> None:
    labels = [label for group in groups for label in group]
    names = [f"group-{number}" for number, group in enumerate(groups) for _ in group]
    assume(set(labels) == {0, 1, 2})
    splits = split_labeled(labels, names, num_classes=3, seed=seed, test_share=0.2)
    sides: dict[str, set[str]] = {}
    for name, split in zip(names, splits, strict=True):
        sides.setdefault(name, set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    test, counts = in_test(labels, splits), Counter(labels)
    quota = quota_of_test(np.array([counts[label] for label in range(3)]), 0.2)
    # groups may leave a quota unfilled; it is only exceeded where a class would have none
    assert all(test[c] <= quota[c] or min(test.values()) <= 4 for c in range(3))
    train = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert train == {0, 1, 2}
    val = Counter(label for label, split in zip(labels, splits, strict=True) if split == "val")
    assert all(val[label] <= 0.15 * counts[label] + 0.5 for label in counts)


@given(sizes=st.lists(st.integers(2, 60), min_size=2, max_size=8), seed=st.integers(0, 9))
@pytest.mark.parametrize("shares", [(0.15, 0.1), (0.5, 0.5), (0.99, 0.99)])
def test_without_groups_every_class_fills_its_quota_and_keeps_a_train_image(
    shares: tuple[float, float], sizes: list[int], seed: int
) -> None:
    labels = [name for name, images in enumerate(sizes) for _ in range(images)]
    names = [str(i) for i in range(len(labels))]
    splits = split_labeled(labels, names, len(sizes), seed, *shares)
    test = in_test(labels, splits)
    quota = quota_of_test(np.array(sizes), shares[1]).tolist()
    assert [test[label] for label in range(len(sizes))] == quota and min(quota) > 0
    train = {label for label, split in zip(labels, splits, strict=True) if split == "train"}
    assert train == {*range(len(sizes))}


def test_label_subset_by_hand() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 2])
    # half of 4, 2 and 1 images, rounded half up, the first of each class in stored order, and at
    # least one: a quarter of one image would be none
    assert label_subset(labels, Fraction(1, 2)).tolist() == [0, 1, 2, 6]
    assert label_subset(labels, Fraction(1, 4)).tolist() == [0, 1, 6]
    assert label_subset(labels, Fraction(1, 1000)).tolist() == [0, 1, 6]
    assert label_subset(labels, Fraction(1)).tolist() == [0, 1, 2, 3, 4, 5, 6]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_label_fractions_are_nested_and_stratified(labels: list[int]) -> None:
    array = np.array(labels)
    subsets = [set(label_subset(array, fraction).tolist()) for fraction in QUARTERS]
    assert subsets[0] <= subsets[1] <= subsets[2] <= subsets[3] == set(range(len(labels)))
    for fraction, subset in zip(QUARTERS, subsets, strict=True):
        taken = Counter(array[sorted(subset)].tolist())
        for label, images in Counter(labels).items():
            assert abs(taken[label] - max(fraction * images, 1)) <= Fraction(1, 2)


def test_exact_halves_round_up() -> None:
    assert [images_at(Fraction(1, 2), images) for images in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]


@given(unit=st.integers(1, 10_000))
def test_multipliers_are_nested_prefixes(unit: int) -> None:
    sizes = [pool_subset(unit, Fraction(m)) for m in (1, 2, 3, 4)]
    assert sizes == [unit, 2 * unit, 3 * unit, 4 * unit]
    assert pool_subset(unit, Fraction(1, 3)) <= unit / 3


def test_a_fraction_keeps_one_image_of_each_class_that_has_any() -> None:
    # a quarter of 1 and of 2 is 0.25 and 0.5
    assert [images_at(Fraction(1, 4), n) for n in (0, 1, 2, 6)] == [0, 1, 1, 2]
