import pytest

from semigrid.data.precision import (
    classes_without_val,
    half_width,
    precision_line,
    precision_of,
    val_lines,
)


def test_half_width_by_hand() -> None:
    # at 80 % of 100 images in each of two classes: √(2 · 0.25 · 0.16 / 100)
    assert half_width([100, 100]) == pytest.approx(1.96 * 0.0282843, rel=1e-5)
    # one class is that of an ordinary share
    assert half_width([400], accuracy=0.5) == pytest.approx(1.96 * 0.025)
    # a class of one image weighs as much as the others
    assert half_width([1, 100, 100, 100]) == pytest.approx(1.96 / 4 * (0.16 * 1.03) ** 0.5)
    assert half_width([0, 100]) is None


def test_the_classes_that_limit_a_test_set_are_named_rarest_first() -> None:
    counts = {
        "train": {"a": 90, "b": 40, "c": 5, "d": 9, "e": 80, "f": 3},
        "val": {"a": 10, "b": 5, "c": 0, "d": 1, "e": 10, "f": 0},
        "test": {"a": 20, "b": 19, "c": 5, "d": 9, "e": 20, "f": 3},
    }
    facts = precision_of(counts)
    assert facts["images"] == 76 and facts["share"] == 76 / 329
    assert list(facts["limited_by"].items()) == [("f", 3), ("c", 5), ("d", 9), ("b", 19)]
    line = precision_line(facts)
    # 1.96 / 6 · √(0.16 · (2/20 + 1/19 + 1/5 + 1/9 + 1/3))
    assert line.startswith("test has 76 images (23.1% of the labelled ones): at 80% in every class")
    assert "known to ±11.7 points (95%); fewest test images: f 3, c 5, d 9 and 1 more class" in line
    same = precision_line(precision_of({**counts, "test": dict.fromkeys("abcdef", 9)}))
    assert "fewest" not in same


def test_classes_of_as_many_test_images_are_named_by_their_labels() -> None:
    labeled = {"big": 411, "aa": 3, "bb": 3, "cc": 3, "zz": 2}
    counts = {
        "train": {name: images - images // 2 for name, images in labeled.items()} | {"big": 370},
        "val": dict.fromkeys(labeled, 0),
        "test": dict.fromkeys(labeled, 1) | {"big": 41},
    }
    assert [*precision_of(counts)["limited_by"]] == ["zz", "aa", "bb", "cc"]


def test_a_class_whose_group_gave_test_too_many_makes_no_other_rare() -> None:
    # 120 + 3 · 100 images: test should have 10 of each, and a group of 40 went whole
    train = {"a": 80, "b": 90, "c": 90, "d": 90}
    counts = {"train": train, "val": dict.fromkeys(train, 0), "test": {**dict.fromkeys("bcd", 10)}}
    counts["test"]["a"] = 40
    assert precision_of(counts)["limited_by"] == {}
    # a rare one beside them is
    for split, images in (("train", 3), ("val", 0), ("test", 3)):
        counts[split]["e"] = images
    assert precision_of(counts)["limited_by"] == {"e": 3}


def test_a_test_set_of_natural_shares_is_limited_by_its_rarest_classes() -> None:
    train = {"a": 200, "b": 190, "c": 50, "d": 50}
    counts = {"train": train, "val": train, "test": {"a": 20, "b": 19, "c": 5, "d": 5}}
    assert [*precision_of(counts)["limited_by"]] == ["c", "d"]


def test_classes_without_val_images_are_named_the_most_labelled_first() -> None:
    counts = {
        "train": {"a": 90, "b": 40, "c": 50, "d": 9, "e": 7},
        "val": {"a": 300, "b": 0, "c": 0, "d": 0, "e": 0},
        "test": dict.fromkeys("abcde", 4),
    }
    assert classes_without_val(counts) == ["c", "b", "d", "e"]
    assert val_lines(counts) == [
        "val has no image of 4 of 5 classes, so trainings are chosen by the others; images in "
        "train: c 50, b 40, d 9 and 1 more class"
    ]
    assert val_lines({**counts, "val": dict.fromkeys("abcde", 1)}) == []
