from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semigrid.data.splits import (
    empty_classes,
    images_at,
    label_subset,
    pool_subset,
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


def test_a_rare_class_keeps_half_of_its_images_out_of_test() -> None:
    # 10 % of 200 would be 10 a class, but class 1 has only 6 images
    labels = [0] * 194 + [1] * 6
    splits = split_labeled(labels, [str(i) for i in range(200)], num_classes=2, seed=0)
    test = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
    assert test == {0: 3, 1: 3}


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
    try:
        splits = split_labeled(labels, names, num_classes=3, seed=seed, test_share=0.2)
    except ValueError:
        assume(False)
    sides: dict[str, set[str]] = {}
    for name, split in zip(names, splits, strict=True):
        sides.setdefault(name, set()).add(split)
    assert all(len(found) == 1 for found in sides.values())
    test = Counter(label for label, split in zip(labels, splits, strict=True) if split == "test")
    assert test[0] == test[1] == test[2] > 0
    val = Counter(label for label, split in zip(labels, splits, strict=True) if split == "val")
    counts = Counter(labels)
    assert all(val[label] <= 0.15 * counts[label] + 0.5 for label in counts)


@pytest.mark.parametrize(
    "labels",
    [
        [0] * 50 + [1],  # one image of class 1: it cannot be in train and in test
        [0] * 50,  # none at all
        [0, 1] * 4,  # 10 % of 8 images are less than one a class
    ],
)
def test_no_balanced_test_set_is_an_error(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="no class-balanced test set"):
        split_labeled(labels, [str(i) for i in range(len(labels))], num_classes=2, seed=0)


def test_one_group_of_everything_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="no class-balanced test set"):
        split_labeled([0, 1] * 50, ["the same product"] * 100, num_classes=2, seed=0)


def test_label_subset_by_hand() -> None:
    labels = np.array([0, 1, 0, 0, 1, 0, 2])
    # half of 4, 2 and 1 images, rounded half up, the first of each class in stored order
    assert label_subset(labels, Fraction(1, 2)).tolist() == [0, 1, 2, 6]
    assert label_subset(labels, Fraction(1, 4)).tolist() == [0, 1]
    assert label_subset(labels, Fraction(1)).tolist() == [0, 1, 2, 3, 4, 5, 6]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_label_fractions_are_nested_and_stratified(labels: list[int]) -> None:
    array = np.array(labels)
    subsets = [set(label_subset(array, fraction).tolist()) for fraction in QUARTERS]
    assert subsets[0] <= subsets[1] <= subsets[2] <= subsets[3] == set(range(len(labels)))
    for fraction, subset in zip(QUARTERS, subsets, strict=True):
        taken = Counter(array[sorted(subset)].tolist())
        for label, images in Counter(labels).items():
            assert abs(taken[label] - fraction * images) <= Fraction(1, 2)


def test_empty_classes_names_the_classes_that_a_fraction_leaves_out() -> None:
    counts = {"apron": 100, "bib": 2, "smock": 1}
    assert empty_classes(Fraction(1, 4), counts) == ["smock"]  # 2 · 1/4 rounds half up to 1
    assert empty_classes(Fraction(1, 10), counts) == ["bib", "smock"]
    assert empty_classes(Fraction(1), counts) == []


def test_exact_halves_round_up() -> None:
    assert [images_at(Fraction(1, 2), images) for images in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]


@given(unit=st.integers(1, 10_000))
def test_multipliers_are_nested_prefixes(unit: int) -> None:
    sizes = [pool_subset(unit, Fraction(m)) for m in (1, 2, 3, 4)]
    assert sizes == [unit, 2 * unit, 3 * unit, 4 * unit]
    assert pool_subset(unit, Fraction(1, 3)) <= unit / 3
