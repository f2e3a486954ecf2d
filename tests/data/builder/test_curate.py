import random
from collections import Counter
from dataclasses import replace
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from semigrid.data.builder.curate import Curation, Facts, curate
from semigrid.data.errors import InputError
from semigrid.data.schema import Split


def many(images: int = 80) -> list[Facts]:
    """Two classes by turns, each image a group and a photograph of its own."""
    return [
        Facts(f"i{n:03d}", "even" if n % 2 == 0 else "odd", f"g{n:03d}", f"p{n}")
        for n in range(images)
    ]


def of(result: Curation) -> dict[str, Facts]:
    return {image.image_id: image for image in result.images}


def test_everything_distinct_is_kept_and_split() -> None:
    result = curate([*many(), *[Facts(f"u{n}", None, f"gu{n}", f"pu{n}") for n in range(5)]])
    assert result.classes == ("even", "odd")
    splits = Counter((image.split, image.label) for image in result.images)
    assert splits["test", "even"] == splits["test", "odd"] == 4  # a tenth, the same of every class
    assert splits["val", "even"] == splits["val", "odd"] == 6
    assert splits["pool", None] == 5 and sum(splits.values()) == 85
    assert (result.duplicates, result.conflicts, result.beside_labeled) == ({}, [], [])


def test_duplicates_by_hand() -> None:
    extra = [
        Facts("z-pool", None, "gz", "p0"),  # of the labelled i000: val must not be in the pool
        Facts("a-pool", None, "ga", "p1"),  # of i001, though it comes first
        Facts("j1", "even", "gj1", "p2"),  # of i002, same label
        Facts("j2", "odd", "gj2", "p4"),  # of i004, which is even
        Facts("u1", None, "gu1", "q"),
        Facts("u2", None, "gu2", "q"),
    ]
    result = curate(many() + extra)
    assert result.duplicates == {
        "z-pool": "i000",
        "a-pool": "i001",
        "j1": "i002",
        "j2": "i004",
        "u2": "u1",
    }
    assert result.conflicts == [{"i004": "even", "j2": "odd"}]
    kept = of(result)
    assert kept["i004"] == Facts("i004", None, "g004", "p4")  # nobody knows what it is
    assert kept["i001"].label == "odd" and kept["u1"].split == "pool"


def test_a_shared_photograph_joins_groups() -> None:
    # the photograph p0 stands in two products: neither product's other images may leave its side
    facts = [*many(), Facts("xc", "even", "product", "p0"), Facts("xo", "odd", "product", "b")]
    kept = of(curate(facts))
    assert kept["i000"].group == kept["xo"].group == "g000"
    assert kept["i000"].split == kept["xo"].split


def test_pool_images_beside_labelled_ones_are_left_out() -> None:
    facts = [*many(), Facts("u", None, "g003", "pu"), Facts("w", None, "gw", "pw")]
    result = curate(facts)
    assert result.beside_labeled == ["u"] and "u" not in of(result) and "w" in of(result)


def test_classes_may_be_given_and_must_have_images() -> None:
    assert curate(many(), classes=["odd", "even"]).classes == ("odd", "even")
    with pytest.raises(InputError, match="the label 'odd' is not among the classes: even"):
        curate(many(), classes=["even"])
    with pytest.raises(InputError, match="the class 'third' has no image"):
        curate(many(), classes=["even", "odd", "third"])
    with pytest.raises(InputError, match="no image has a label"):
        curate([Facts("u", None, "g", "p")])


def rare(*names: str, group: str | None = None) -> list[Facts]:
    return [Facts(name, "rare", group or f"g{name}", f"p{name}") for name in names]


def test_a_class_that_cannot_be_in_train_and_test_is_named_with_what_to_do() -> None:
    expected = r"1 of 3 classes have fewer than 2 .*: rare 1 images; .* --rare pool .* --rare drop"
    with pytest.raises(InputError, match=expected):
        curate([*many(), *rare("r")])
    with pytest.raises(InputError, match="all in one group.*rare 3 images"):
        curate([*many(), *rare("r", "s", "t", group="product")])
    with pytest.raises(InputError, match="fewer than 3 labelled.*rare 2 images"):
        curate([*many(), *rare("r", "s")], min_per_class=3)
    with pytest.raises(InputError, match="fewer than two classes have 50 labelled"):
        curate([*many(), *rare("r")], min_per_class=50, rare="pool")


def test_rare_classes_join_the_pool_or_are_left_out_when_asked() -> None:
    facts = [*many(), *rare("r", "s")]
    pooled = curate(facts, min_per_class=3, rare="pool")
    dropped = curate(facts, min_per_class=3, rare="drop")
    assert pooled.classes == dropped.classes == ("even", "odd")
    assert pooled.rare == dropped.rare == {"rare": ["r", "s"]}
    assert (of(pooled)["r"].split, of(pooled)["r"].label) == ("pool", None)
    assert not {"r", "s"} & {*of(dropped)} and len(dropped.images) == 80


def test_a_class_of_two_images_has_one_in_train_and_one_in_test() -> None:
    kept = of(curate([*many(), *rare("r", "s")]))
    assert {kept["r"].split, kept["s"].split} == {"train", "test"}


def test_quotas_that_groups_miss_are_said() -> None:
    result = curate([*many(), *rare("r", "s", group="ga"), *rare("t", "u", group="gb")])
    # a tenth of 84 images in three classes are 3 each; two of four can be spared, and go whole
    assert result.missed == {}
    result = curate([*many(), *rare("r", "s", "v", group="ga"), *rare("t", "u", "w", group="gb")])
    assert result.missed == {} and sum(image.split == "test" for image in result.images) == 9
    result = curate([*many(), *rare("r", "s", group="ga"), *rare("t", "u", "w", group="gb")])
    assert result.missed == {}
    result = curate([*many(), *rare(*"abcd", group="ga"), *rare(*"efgh", group="gb")])
    assert result.missed == {"rare": {"quota": 3, "images": 4}}


def given(*splits: Split, images: int = 80) -> list[Facts]:
    """The images of ``many`` in these splits, pairs of them by turns."""
    return [
        replace(fact, given=splits[n // 2 % len(splits)]) for n, fact in enumerate(many(images))
    ]


def test_a_copy_with_another_label_changes_nothing_in_test() -> None:
    facts = given("train", "val", "test")  # i004 is even, and in test
    result = curate([*facts, Facts("a", "odd", "ga", "p4", given="train")])
    kept = of(result)["i004"]
    assert (kept.label, kept.split) == ("even", "test") and result.conflicts == []
    pair = {"left_out": "a", "of": "train", "stays": "i004", "in": "test", "why": "duplicate"}
    assert result.across == [pair]
    # two labels within test leave none
    result = curate([*facts, Facts("a", "odd", "ga", "p4", given="test")])
    assert result.conflicts == [{"a": "odd", "i004": "even"}] and of(result)["a"].split == "pool"


def test_images_without_a_split_follow_their_group() -> None:
    facts = [*given("train", "val", "test"), Facts("a", "odd", "g004", "pa")]
    assert of(curate(facts))["a"].split == "test"


sides = st.sampled_from([None, "train", "val", "test", "pool"])


@hypothesis.given(
    rows=st.lists(st.tuples(sides, st.integers(0, 9), st.integers(0, 40)), max_size=40)
)
def test_given_splits_are_kept_or_it_is_said_why(rows: list[Any]) -> None:
    facts = given("train", "val", "test") + [
        Facts(f"x{n:02d}", None if side == "pool" else "odd", f"h{group}", f"q{pixels}", given=side)
        for n, (side, group, pixels) in enumerate(rows)
    ]
    result = curate(facts)
    kept = of(result)
    said = {pair["left_out"] for pair in result.across}
    for fact in facts:
        if fact.image_id in kept:
            assert fact.given in (None, kept[fact.image_id].split)
        else:
            assert fact.image_id in {*said, *result.duplicates, *result.beside_labeled}
    assert {f.image_id for f in facts if f.given == "test"} - {*result.duplicates} <= {*kept}
    splits: dict[str, set[str]] = {}
    for image in result.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())


images = st.lists(
    st.tuples(st.sampled_from(["even", "odd", None]), st.integers(0, 25), st.integers(0, 60)),
    max_size=50,
)


@hypothesis.given(rows=images, seed=st.integers(0, 3))
def test_promises(rows: list[tuple[str | None, int, int]], seed: int) -> None:
    facts = many() + [
        Facts(f"x{n:02d}", label, f"h{group}", f"q{pixels}")
        for n, (label, group, pixels) in enumerate(rows)
    ]
    shuffled = random.Random(seed).sample(facts, len(facts))
    result = curate(facts, seed=seed)
    assert curate(shuffled, seed=seed) == result
    kept = of(result)
    # every image is kept, or it is said why not
    gone = {*result.duplicates, *result.beside_labeled}
    assert {f.image_id for f in facts} == {*kept, *gone} and not gone & set(kept)
    splits: dict[str, set[str]] = {}
    for image in result.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    # images that share a group or a photograph share a side
    by_photograph: dict[str, set[str]] = {}
    for fact in facts:
        if fact.image_id in kept:
            by_photograph.setdefault(fact.pixels, set()).add(fact.image_id)
    assert all(len(same) == 1 for same in by_photograph.values())
    test = Counter(image.label for image in result.images if image.split == "test")
    counts = Counter(image.label for image in result.images if image.label is not None)
    per_class = int(0.1 * counts.total() / 2 + 0.5)
    for name in ("even", "odd"):
        assert test[name] == result.missed.get(name, {"images": per_class})["images"] > 0
