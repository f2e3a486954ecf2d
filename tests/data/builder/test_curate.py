import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from time import process_time
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from semigrid.data.builder.curate import Curation, Facts, curate
from semigrid.data.errors import InputError
from semigrid.data.schema import LABELED_SPLITS, Split


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
    assert result.conflicts == [{"labels": {"i004": "even", "j2": "odd"}, "keeps": None}]
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
    split = of(result)["i003"].split
    assert result.beside_labeled == [{"left_out": "u", "stays": "i003", "in": split}]
    assert "u" not in of(result) and "w" in of(result)


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
    or_rare = (
        "; or give --rare pool (images of such classes join the pool) or --rare drop (they are "
        "left out)"
    )
    assert refused([*many(), *rare("r")]) == [
        f"1 of 3 classes has fewer than 2 labelled images: rare 1; label more of them{or_rare}"
    ]
    assert refused([*many(), *rare("r", "s", "t", group="product")]) == [
        "1 of 3 classes has only one group of images, which cannot be in train and in test: rare "
        f"3; label images of other groups{or_rare}"
    ]
    assert refused([*many(), *rare("r", "s")], min_per_class=3) == [
        "1 of 3 classes has fewer than 3 labelled images: rare 2; label more of them, or give a "
        f"lower --min-per-class{or_rare}"
    ]
    # without them a classifier would have nothing to tell apart, whatever is asked for
    for what in ("refuse", "pool", "drop"):
        assert refused(
            [*many(60), *rare(*(f"r{n}" for n in range(50)))], min_per_class=45, rare=what
        ) == [
            "2 of 3 classes have fewer than 45 labelled images: even 30, odd 30; label more of "
            "them, or give a lower --min-per-class",
            "without them there is 1 class, and a classifier needs two",
        ]


def refused(facts: list[Facts], **settings: Any) -> list[str]:
    with pytest.raises(InputError) as error:
        curate(facts, **settings)
    return [*error.value.problems]


def in_given(**classes: Sequence[int]) -> list[Facts]:
    """So many images of each class in the given train, val and test."""
    numbers = {
        (label, split): images
        for label, of_split in classes.items()
        for split, images in zip(("train", "val", "test"), of_split, strict=True)
    }
    return [
        Facts(f"{split}/{label}/{n}", label, f"{split}/{label}/{n}", f"{label}{split}{n}", given=s)
        for (label, split), images in numbers.items()
        for n in range(images)
        for s in LABELED_SPLITS
        if s == split
    ]


def test_each_cause_of_a_rare_class_comes_with_its_own_advice() -> None:
    more = "; or give --rare pool (images of such classes join the pool) or --rare drop (they are"
    # test/unknown, with the images of all classes
    assert refused(in_given(a=(20, 0, 0), b=(20, 0, 0), unknown=(0, 0, 5))) == [
        "1 of 3 classes has no image in the given train, or none that is not in another split, "
        "too: unknown 5; put images of them into train, or draw all splits anew with --splits new",
        "2 of 3 classes have no image in the given test: a 20, b 20; put images of them into test, "
        "or draw all splits anew with --splits new",
        "without them there is no class, and a classifier needs two",
    ]
    # a class that only the given val has
    (only,) = refused(in_given(a=(20, 5, 5), b=(20, 0, 5), c=(0, 5, 0)))[:1]
    assert only.startswith("1 of 3 classes has no image in the given train, ") and "c 5" in only
    # another spelling in train and in test
    problems = refused(in_given(Cat=(30, 5, 0), cat=(0, 0, 5), dog=(30, 5, 5), emu=(30, 5, 5)))
    assert [problem.partition(":")[0] for problem in problems[:2]] == [
        "1 of 4 classes has no image in the given train, or none that is not in another split, too",
        "1 of 4 classes has no image in the given test",
    ]
    assert problems[2].startswith("'Cat', 'cat' differ only in spelling: write them alike; or give")
    # too few, and what is too few of them has none in test either
    problems = refused(in_given(a=(20, 5, 5), b=(20, 5, 5), c=(1, 0, 0)))
    assert [problem.partition(":")[0] for problem in problems] == [
        "1 of 3 classes has no image in the given test",
        "1 of 3 classes has fewer than 2 labelled images",
    ]
    assert more in problems[1] and more not in problems[0]


def test_a_class_that_leaks_alone_leave_nothing_of_is_named() -> None:
    facts = in_given(a=(20, 4, 4), b=(20, 4, 4), c=(5, 0, 0))
    copies = [
        replace(f, pixels=f"atest{n % 4}") if f.label == "c" else f for n, f in enumerate(facts)
    ]
    (problem,) = refused(copies)
    assert problem.startswith("1 of 3 classes has no image left: all have copies, or are in the")
    assert "another split: c 0; correct their labels or take the others away; or give" in problem
    assert refused(copies, classes=["a", "b", "c"]) == [problem]
    result = curate(copies, rare="pool")
    assert (result.classes, result.rare) == (("a", "b"), {"c": []})
    in_groups = [replace(f, group="test/a/0") if f.label == "c" else f for f in facts]
    assert refused(in_groups) == [problem]
    # without given splits two labels leave none
    facts = [*many(), *rare("r", "s"), replace(many()[0], image_id="z", label="rare")]
    twins = [replace(f, pixels="p0") if f.label == "rare" else f for f in facts]
    assert refused(twins) == [problem.replace("c 0", "rare 0")]


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
    assert (kept.label, kept.split) == ("even", "test")
    labels = {"a": "odd", "i004": "even"}
    assert result.conflicts == [{"labels": labels, "keeps": "even"}]
    pair = {"left_out": "a", "of": "train", "stays": "i004", "in": "test", "why": "duplicate"}
    assert result.across == [pair]
    # two labels within test leave none
    result = curate([*facts, Facts("a", "odd", "ga", "p4", given="test")])
    assert result.conflicts == [{"labels": labels, "keeps": None}]
    assert of(result)["a"].split == "pool"


@pytest.mark.parametrize(
    ("group", "split"), [("g000", "train"), ("g002", "val"), ("g004", "test"), ("ga", "train")]
)
@pytest.mark.parametrize("label", ["odd", None])
def test_a_given_val_or_test_does_not_grow(group: str, split: str, label: str | None) -> None:
    plain = given("train", "val", "test")
    result = curate([*plain, Facts("a", label, group, "pa")])
    if label is None:
        pooled = group == "ga"
        assert ("a" in of(result)) == pooled
        beside = {"left_out": "a", "stays": f"i{group[1:]}", "in": split}
        assert result.beside_labeled == ([] if pooled else [beside])
    elif split == "train":
        assert of(result)["a"].split == "train" and result.across == []
    else:
        pair = {"left_out": "a", "of": None, "stays": f"i{group[1:]}", "in": split, "why": "group"}
        assert result.across == [pair] and "a" not in of(result)
    before = {name: image.split for name, image in of(curate(plain)).items()}
    assert before.items() <= {name: image.split for name, image in of(result).items()}.items()


def test_a_copy_in_a_pool_folder_of_a_given_test_image_is_across() -> None:
    result = curate([*given("train", "val", "test"), Facts("pool/a", None, "ga", "p4")])
    assert result.across == [
        {"left_out": "pool/a", "of": "pool", "stays": "i004", "in": "test", "why": "duplicate"}
    ]
    # which is drawn anew here
    assert curate([*many(), Facts("pool/a", None, "ga", "p4")]).across == []


def test_shares_are_of_the_images_that_splits_are_drawn_from() -> None:
    # were the 15 % of the given test's images, too, val would have 17 of 20, and train three
    facts = in_given(a=(20, 0, 200), b=(20, 0, 200))
    splits = Counter((image.split, image.label) for image in curate(facts).images)
    assert splits["val", "a"] == splits["val", "b"] == 3
    assert splits["train", "a"] == splits["train", "b"] == 17
    facts = in_given(a=(100, 20, 0), b=(60, 20, 0))
    splits = Counter((image.split, image.label) for image in curate(facts).images)
    assert splits["test", "a"] == splits["test", "b"] == 8  # a tenth of 160 in two classes


def test_no_share_of_a_given_split_is_blamed() -> None:
    facts = in_given(a=(30, 0, 4), b=(1, 0, 4))
    joined = [replace(f, group="train/a/0") if f.side == "train" else f for f in facts]
    assert refused(joined) == [
        "no image is left for val: of 31 labelled images to draw from, by val_share 0.15, the "
        "rarest class has 1, and the largest group, which stays together, 31; give other shares, "
        "more labels or smaller groups"
    ]


def test_many_copies_take_no_longer_than_as_many_images() -> None:
    # with a scan of all copies for each of them it would be a billion steps
    facts = [*many(), *[Facts(f"x{n}", "odd", f"x{n}", "p1") for n in range(30_000)]]
    start = process_time()
    result = curate(facts)
    assert len(result.duplicates) == 30_000 and process_time() - start < 10


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
            split = kept[fact.image_id].split
            assert fact.given == split or fact.given is None and split in ("train", "pool")
        else:
            beside = {each["left_out"] for each in result.beside_labeled}
            assert fact.image_id in {*said, *result.duplicates, *beside}
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
    gone = {*result.duplicates, *(each["left_out"] for each in result.beside_labeled)}
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
