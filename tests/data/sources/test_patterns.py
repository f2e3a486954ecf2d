"""The generated patterns: what they show, what their crowd says, and the datasets made of them."""

import hashlib
import io
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.helpers.command import semigrid

from semigrid.data.builder.check import check_dataset
from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.request import load_request
from semigrid.data.catalog import open_dataset
from semigrid.data.crowd.consensus import Rules, consensus
from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.sources.patterns import drawing
from semigrid.data.sources.patterns.drawing import draw, pixels
from semigrid.data.sources.patterns.spec import (
    ALIKE,
    BLOCK,
    CARELESS,
    CARELESS_ANSWER,
    CLASSES,
    MARKETPLACES,
    QUALIFIED,
    SKILLS,
    WORKERS,
    Patterns,
    answers_of,
    block,
    gold_of,
    parse_patterns,
    true_classes,
)
from semigrid.data.storage import open_storage
from semigrid.data.storage.in_use import in_use

SMALL = Patterns(images=1500, answered=800, size=16)
# changes with any image's class, group, slice or votes (raise VERSION), or split (SPLIT_VERSION)
FINGERPRINT = "33398f899c9a4305c6f2927ab9f8bbf0c0830f1803922ecf54e856f850468160"
# mean of the first image of each class, of 255
BRIGHTNESS = {
    "animal": 191.6,
    "chevron": 166.6,
    "dots": 108.8,
    "floral": 199.0,
    "geometric": 149.3,
    "other": 170.5,
    "paisley": 187.1,
    "plaid": 160.4,
    "plain": 157.9,
    "stripes": 183.8,
}
COLUMNS = ["image_id", "label", "group", "marketplace", "votes"]


@pytest.fixture(scope="module")
def small() -> Dataset:
    return open_dataset(SMALL.uri)


def build(uri: str, to: Path, **options: Any) -> tuple[Dataset, dict[str, Any]]:
    request = load_request(uri, options)
    items, audit = gather(request)
    return build_dataset(str(to), items, request, audit=audit)


def test_an_image_is_the_same_in_any_order_and_process() -> None:
    asked = [
        (seed, number, size) for seed in (0, 7) for number in (1700, 3, 251) for size in (8, 64)
    ]
    here = [hashlib.sha256(draw(*of)).hexdigest() for of in asked]
    code = (
        "import hashlib; from semigrid.data.sources.patterns.drawing import draw\n"
        f"for of in {asked[::-1]!r}: print(hashlib.sha256(draw(*of)).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[::-1] == here
    assert len(set(here)) == len(here)


def test_the_drawings_are_those_of_this_version() -> None:
    truth = true_classes(0, 500)
    found = {name: pixels(0, truth.index(name), 32) for name in CLASSES}
    # not to the bit, which no two machines agree on; raise VERSION when drawings change
    assert {name: image.mean() for name, image in found.items()} == pytest.approx(BRIGHTNESS, abs=1)


@pytest.mark.parametrize("size", [8, 61, 300])
def test_images_of_any_size(size: int) -> None:
    with Image.open(io.BytesIO(draw(0, 5, size))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))


def test_a_products_images_share_class_and_colours_but_not_the_view() -> None:
    shown = block(0, 3)
    products = np.unique(shown.products)
    assert set(np.bincount(np.searchsorted(products, shown.products))) == {1, 2, 3}
    for product in products:
        of_product = shown.products == product
        assert len(set(shown.classes[of_product])) == len(set(shown.marketplaces[of_product])) == 1
        assert np.flatnonzero(of_product)[0] + 3 * BLOCK == product  # named by its first image
    # two views of a product differ, yet are nearer to each other than to another product
    pairs = [n for n in range(BLOCK - 1) if shown.products[n] == shown.products[n + 1]][:40]
    near, far = [], []
    for n in pairs:
        first, second, stranger = (
            pixels(0, 3 * BLOCK + m, 32)[12:20, 12:20].astype(float).mean((0, 1))
            for m in (n, n + 1, (n + 100) % BLOCK)
        )
        near.append(np.abs(first - second).mean())
        far.append(np.abs(first - stranger).mean())
    assert 0 < np.median(near) < 0.4 * np.median(far)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_from_a_third_of_the_images_to_under_a_hundredth(seed: int) -> None:
    counts = Counter(true_classes(seed, 2000))
    assert counts == {name: 8 * of_block for name, of_block in CLASSES.items()}
    assert counts["plain"] / 2000 == pytest.approx(0.35, abs=0.01)
    assert 14 <= counts["paisley"] < 0.01 * 2000


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_marketplace_is_scarce(seed: int) -> None:
    found = np.concatenate([block(seed, index).marketplaces for index in range(8)])
    for share, (name, wanted) in zip(
        np.bincount(found) / len(found), MARKETPLACES.items(), strict=True
    ):
        assert share == pytest.approx(wanted, abs=0.03 if wanted > 0.1 else 0.012), name


def test_marketplaces_look_different() -> None:
    names = np.array(list(MARKETPLACES))
    shown = [names[block(0, index).marketplaces] for index in range(6)]
    where = np.concatenate(shown)
    means = {
        name: np.mean(
            [pixels(0, int(n), 16).mean((0, 1)) for n in np.flatnonzero(where == name)[:40]], 0
        )
        for name in names
    }
    warmth = {name: mean[0] - mean[2] for name, mean in means.items()}
    assert warmth["south"] > 25 and warmth["north"] < -8  # red beside blue, of 255
    assert means["islands"].mean() < means["east"].mean() - 40


def test_three_workers_answer_an_image_and_all_of_them_a_gold_task() -> None:
    answers, gold = answers_of(SMALL), gold_of(SMALL)
    assert not answers.duplicated(["task", "worker"]).any()
    asked = Counter(answers["task"])
    assert len(asked) == SMALL.answered and len(gold) == len(SMALL.gold_numbers) == 80
    assert {asked[task] for task in gold} == {len(WORKERS)}
    assert {count for task, count in asked.items() if task not in gold} == {3}
    assert set(gold.values()) >= {"plain", "stripes", "dots", "floral"}


def test_more_answered_images_leave_the_answers_as_they_are() -> None:
    fewer, more = (answers_of(Patterns(4000, answered)) for answered in (600, 1600))
    # which images are gold tasks changes, so only the three answers that all images have
    first = fewer.groupby("task", sort=False).head(3).reset_index(drop=True)
    same = more.groupby("task", sort=False).head(3).reset_index(drop=True)[: len(first)]
    assert len(first) == 1800 and first.equals(same)


def test_gold_tasks_part_the_workers_who_look_from_those_who_do_not() -> None:
    made = Patterns(4000, 2000)
    _, audit = consensus(answers_of(made), Rules(), gold_of(made))
    scores = {record["worker"]: record["gold_score"] for record in audit.workers}
    assert {name for name in WORKERS if scores[name] >= 0.7} == set(WORKERS[:QUALIFIED])
    for name, skill in zip(WORKERS[:CARELESS], SKILLS, strict=False):
        assert scores[name] == pytest.approx(skill, abs=0.12)
    careless = answers_of(made).query(f"worker == '{WORKERS[CARELESS]}'")
    assert set(careless.label) == {CARELESS_ANSWER}


def test_consensus_is_better_than_an_answer_and_better_with_gold() -> None:
    made = Patterns(4000, 4000)
    answers, truth = answers_of(made), true_classes(0, 4000)
    of_task = dict(zip(dict.fromkeys(answers.task), truth, strict=True))
    single = (answers.label == answers.task.map(of_task)).mean()
    right = {}
    for name, gold in (("gold", gold_of(made)), ("no gold", {})):
        found, audit = consensus(answers, Rules(), gold)
        labels = {task: vote.label for task, vote in found.items() if vote.label is not None}
        assert 0.85 < audit.labeled / audit.tasks < 0.98
        right[name] = np.mean([label == of_task[task] for task, label in labels.items()])
    assert 0.8 < single < 0.9 < right["no gold"] < right["gold"] < 1
    assert right["gold"] > 0.975


def test_workers_mistake_what_looks_alike() -> None:
    answers = answers_of(Patterns(4000, 4000))
    of_task = dict(zip(dict.fromkeys(answers.task), true_classes(0, 4000), strict=True))
    looked = answers[answers.worker != WORKERS[CARELESS]]
    for place, name in enumerate(ALIKE):
        wrong = looked[(looked.task.map(of_task) == name) & (looked.label != name)]
        assert set(wrong.label) == {ALIKE[place - 1], ALIKE[(place + 1) % len(ALIKE)]}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("builtin://patterns", Patterns(4000, 1600, 64, 0)),
        ("builtin://patterns?images=1000", Patterns(1000, 500)),
        ("builtin://patterns?seed=3&images=300000", Patterns(300_000, 120_000, 64, 3)),
        ("builtin://patterns?size=8&answered=4000", Patterns(4000, 4000, 8)),
    ],
)
def test_parameters(uri: str, expected: Patterns) -> None:
    assert parse_patterns(uri) == expected == parse_patterns(expected.uri)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("images=499", "images is '499'; give a whole number from 500 to 10,000,000"),
        ("images=many", "images is 'many'; give a whole number from 500 to 10,000,000"),
        ("images=1e3", "images is '1e3'"),
        ("images=", "images is ''"),
        ("answered=5000", "answered is '5000'; give a whole number from 500 to 4,000"),
        ("answered=900&images=800", "answered is '900'; give a whole number from 500 to 800"),
        ("size=7", "size is '7'; give a whole number from 8 to 1,024"),
        ("seed=-1", "seed is '-1'; give a whole number from 0"),
        ("colour=red", "no parameter 'colour'; there are images, answered, size, seed"),
    ],
)
def test_bad_parameters_are_named_with_what_is_allowed(query: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(f"builtin://patterns?{query}")
    assert f"builtin://patterns?{query}: {expected}" in str(caught.value)


def test_all_problems_of_a_uri_stand_in_one_error() -> None:
    with pytest.raises(InputError) as caught:
        parse_patterns("builtin://patterns?size=1&seed=x&x=1")
    assert len(caught.value.problems) == 3


def test_what_cannot_be_opened_or_built_says_what_can(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="60,000 images are too many") as caught:
        open_dataset("builtin://patterns?images=60000")
    assert "semigrid data build 'builtin://patterns?images=60000' DEST" in str(caught.value)
    with pytest.raises(InputError, match="the digits have no parameters"):
        open_dataset("builtin://digits?seed=1")
    with pytest.raises(InputError, match="need no building"):
        gather(load_request("builtin://digits", {}))
    for option in ("answers", "gold"):
        with pytest.raises(InputError, match="its crowd answers are generated with its images"):
            gather(load_request("builtin://patterns", {option: "file.csv"}))


def test_an_opened_dataset_has_all_that_the_answers_made_of_it(small: Dataset) -> None:
    manifest = small.manifest
    assert manifest.classes == tuple(sorted(CLASSES)) and "other" in manifest.classes
    assert manifest.slices == ("marketplace",) and manifest.votes
    assert "generated crowd answers" in manifest.source and "generated" in manifest.license
    assert 4 * manifest.pool_unit <= manifest.pool
    assert check_dataset(small) == []  # no product on two sides, for one
    train = manifest.counts["train"]
    assert 0 < train["paisley"] / sum(train.values()) < 0.01
    report = small.storage.read("report.json").decode()
    assert '"duplicates": {}' in report and '"quarantined": {}' in report
    assert small.read("pool", np.arange(3)).ids[0].startswith("generated-")
    # the labels are the crowd's, and some of them are wrong
    truth = true_classes(SMALL.seed, SMALL.answered)
    wrong = seen = 0
    for split in ("train", "val", "test"):
        table = small.read(split)
        for name, label in zip(table.ids, table.labels, strict=True):
            wrong += manifest.classes[label] != truth[int(name[-7:])]
            seen += 1
    assert 0 < wrong < 0.04 * seen and seen > 0.85 * SMALL.answered


@pytest.mark.parametrize("answered", [500, 508, 1000, 1499, 1500])
def test_four_times_the_pool_unit_is_there(answered: int) -> None:
    made = Patterns(1500, answered)
    products = np.concatenate([block(0, index).products for index in range(6)])
    unasked = len([n for n in range(answered, 1500) if products[n] not in products[:answered]])
    assert (made.pool_unit or 0) == unasked // 4


def test_the_fingerprint_is_the_same_whatever_encodes_the_images(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.manifest.fingerprint == FINGERPRINT
    monkeypatch.setattr(drawing, "QUALITY", 60)
    other, _ = build(SMALL.uri, tmp_path / "set")
    assert other.manifest.fingerprint == FINGERPRINT
    assert other.manifest.shards != small.manifest.shards  # the bytes are others
    for change in ({"seed": 1}, {"size": 17}):
        changed = Patterns(**{**vars(SMALL), **change})
        first, other = (gather(load_request(m.uri, {}))[0][0] for m in (SMALL, changed))
        assert first.identity != other.identity


def test_the_rules_of_the_vote_apply(small: Dataset, tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [{}, {"agree": 3}, {"min_gold_score": 0.0}]
    usual, strict, lenient = (gather(load_request(SMALL.uri, rule))[1] for rule in rules)
    assert usual is not None and strict is not None and lenient is not None
    assert strict.labeled < 0.8 * usual.labeled and lenient.used > usual.used


def rows(dataset: Dataset, split: str) -> list[dict[str, Any]]:
    return list(pa.table({c: dataset.column(split, c) for c in COLUMNS}).to_pylist())


def test_the_raw_material_makes_the_same_dataset(small: Dataset, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    options = ["--images", "1500", "--answered", "800", "--size", "16"]
    done = semigrid("data", "generate", str(raw), *options)
    assert done.returncode == 0, done.stderr
    assert "1,500 generated images, generated answers to 800 of them" in done.stdout
    assert (
        "is generated, the images and the crowd answers alike" in (raw / "README.txt").read_text()
    )
    command = done.stdout.split("To build a dataset from it: ")[1].rstrip("\n")
    assert command in (raw / "README.txt").read_text()
    built = semigrid(*shlex.split(command)[1:])
    assert built.returncode == 0, built.stderr
    dataset = open_dataset(f"{raw}-dataset")
    for split in ("train", "val", "test", "pool"):
        assert rows(dataset, split) == rows(small, split)  # in the same order
        assert dataset.read(split).images == small.read(split).images
    for field in ("classes", "counts", "pool", "pool_unit", "slices", "votes", "license"):
        assert getattr(dataset.manifest, field) == getattr(small.manifest, field)

    writing = raw / "run" / f".record.json.{'0' * 32}-12-34.tmp"  # of a process at work there
    writing.parent.mkdir()
    writing.write_text("half")
    again = semigrid("data", "generate", str(raw))
    assert writing.exists()
    assert again.returncode == 2 and "this folder is not empty" in again.stderr
    beside = tmp_path / "beside"
    with in_use(open_storage(beside), "DEST"):
        again = semigrid("data", "generate", str(beside))
    assert again.returncode == 2 and "another process is writing here" in again.stderr


def test_they_can_be_learned_but_not_at_a_glance() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, known = 1500, 1000
    truth = np.array(true_classes(0, images))
    grey = np.stack([pixels(0, n, 32).mean(2) for n in range(images)])
    inside = grey[:, 6:26, 6:26]  # of the product; how often it changes, whatever the phase
    spectra = np.abs(np.fft.rfft2(inside - inside.mean((1, 2), keepdims=True)))
    features = np.log1p(spectra).reshape(images, -1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    found = model.fit(features[:known], truth[:known]).predict(features[known:])
    accuracy = (found == truth[known:]).mean()
    majority = (truth[known:] == "plain").mean()
    assert majority + 0.1 < accuracy < 0.9
