import pytest

from semigrid.data.precision import half_width, precision_line, precision_of


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
