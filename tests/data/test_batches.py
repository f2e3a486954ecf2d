import io
import random
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from tests.helpers.tiny import Unkept, counted, first_rows, training_batches

from semigrid.data.batches import EvalBatches, load
from semigrid.data.schema import Dataset, ImageTable
from semigrid.data.views.augment import ViewSettings, make_view
from semigrid.data.views.render import Batch, BrokenImageError, decode
from semigrid.trainers.trial.data import pool_units

VIEWS = ViewSettings(img_size=16, crop_scale=(0.5, 1.0), weak_crop_scale=(0.5, 1.0))
BOTH = ("weak", "strong")


def assert_same(a: Batch, b: Batch) -> None:
    assert a.ids == b.ids
    assert a.broken == b.broken
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.erasures, b.erasures)
    assert a.views.keys() == b.views.keys()
    for view in a.views:
        assert torch.equal(a.views[view], b.views[view])


def with_broken(table: ImageTable, rows: list[int]) -> ImageTable:
    images = [b"no image" if i in rows else image for i, image in enumerate(table.images)]
    return replace(table, images=images)


def test_a_batch_is_a_function_of_its_step(digits: Dataset) -> None:
    table = first_rows(digits, "pool", 20)
    batches = training_batches(table, 6, VIEWS, BOTH)
    forwards = [batches[step] for step in range(5)]
    torch.manual_seed(1)  # neither the global generators nor the order of asking may matter
    backwards = [batches[step] for step in reversed(range(5))]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        assert_same(a, b)
    assert forwards[0].views["weak"].shape == (6, 3, 16, 16)
    assert forwards[0].views["weak"].dtype == torch.uint8


def test_making_batches_leaves_the_global_generators_alone(digits: Dataset) -> None:
    batches = training_batches(first_rows(digits, "pool", 20), 6, VIEWS, BOTH)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(batches(0, 2))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_calling_yields_the_batches_of_the_steps(digits: Dataset) -> None:
    batches = training_batches(first_rows(digits, "train", 20), 4, VIEWS, ("strong",))
    for step, batch in enumerate(batches(3, 8), start=3):
        assert_same(batch, batches[step])
    assert len(list(batches(3, 8))) == 5


def test_labels_belong_to_their_images(digits: Dataset) -> None:
    table = first_rows(digits, "train", 20)
    label_of = dict(zip(table.ids, table.labels.tolist(), strict=True))
    batch = training_batches(table, 8, VIEWS, ("strong",))[1]
    assert batch.labels.tolist() == [label_of[image_id] for image_id in batch.ids]


def test_a_pass_shows_every_image_and_the_next_pass_other_views(digits: Dataset) -> None:
    table = first_rows(digits, "pool", 12)
    batches = training_batches(table, 6, VIEWS, ("strong",))
    first, second = Batch.joined([batches[0], batches[1]]), Batch.joined([batches[2], batches[3]])
    assert sorted(first.ids) == sorted(second.ids) == sorted(table.ids)
    for place, image_id in enumerate(first.ids):
        again = second.ids.index(image_id)
        assert not torch.equal(first.views["strong"][place], second.views["strong"][again])
    order = [second.ids.index(image_id) for image_id in first.ids]
    assert not torch.equal(first.erasures, second.erasures[order])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_batches_of_all_ranks_are_the_batch_of_one(digits: Dataset, world_size: int) -> None:
    table = first_rows(digits, "pool", 20)
    unit_rows = [7, 7, 6]
    whole = training_batches(table, 8, VIEWS, BOTH, unit_rows=unit_rows)
    ranks = [
        training_batches(table, 8, VIEWS, BOTH, 0, rank, world_size, unit_rows)
        for rank in range(world_size)
    ]
    for step in range(4):
        assert_same(Batch.joined([batches[step] for batches in ranks]), whole[step])


def test_a_loader_process_makes_the_same_batches(digits: Dataset) -> None:
    table = first_rows(digits, "train", 20)
    batches = training_batches(table, 6, VIEWS, ("strong",))
    found = list(load({"some": batches}, range(2, 6), 1))
    assert len(found) == 4
    for step, batch in enumerate(found, start=2):
        assert_same(batch["some"], batches[step])


def test_a_broken_pool_image_is_replaced_by_the_next_of_its_unit(digits: Dataset) -> None:
    table = first_rows(digits, "pool", 8)
    units = [4, 4]
    sound = training_batches(table, 8, VIEWS, BOTH, unit_rows=units)[0]
    batch = training_batches(with_broken(table, [1, 7]), 8, VIEWS, BOTH, unit_rows=units)[0]
    # row 7 is the last of its unit: the next one is the unit's first, row 4
    instead = {table.ids[1]: table.ids[2], table.ids[7]: table.ids[4]}
    assert batch.ids == [instead.get(image_id, image_id) for image_id in sound.ids]
    assert sorted(batch.broken) == sorted(instead)
    for place, image_id in enumerate(batch.ids):
        original = sound.ids.index(image_id)
        assert torch.equal(batch.views["weak"][place], sound.views["weak"][original])


def test_broken_images_in_a_row_are_all_listed(digits: Dataset) -> None:
    table = with_broken(first_rows(digits, "pool", 4), [1, 2])
    batch = training_batches(table, 4, VIEWS, ("weak",))[0]
    assert set(batch.broken) == {table.ids[1], table.ids[2]}
    assert set(batch.ids) == {table.ids[0], table.ids[3]}


def test_a_unit_of_broken_images_is_an_error(digits: Dataset) -> None:
    table = with_broken(first_rows(digits, "pool", 4), [0, 1])
    with pytest.raises(BrokenImageError, match="none of 2 images can be decoded"):
        training_batches(table, 4, VIEWS, ("weak",), unit_rows=[2, 2])[0]


def test_a_broken_labeled_image_is_an_error_that_names_it(digits: Dataset) -> None:
    table = with_broken(first_rows(digits, "train", 4), [2])
    with pytest.raises(BrokenImageError, match=f"image {table.ids[2]} cannot be decoded"):
        training_batches(table, 4, VIEWS, ("strong",))[0]


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def without_its_middle(content: bytes) -> bytes:
    # the container's head stays whole, so that the file opens and only its pixels are missing
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "avif"])
@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[: len(c) // 2], without_its_middle])
def test_every_kind_of_damage_is_a_broken_image(
    kind: str, damage: Callable[[bytes], bytes]
) -> None:
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    try:
        image = decode(damage(encoded(kind)), "the-id")
    except BrokenImageError as error:
        assert "image the-id cannot be decoded" in str(error)
    else:  # some decoders fill in what is missing
        assert (image.mode, image.size) == ("RGB", (16, 16))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_without_its_main_image_is_a_broken_image() -> None:
    # Pillow opens the file, and its decoder raises a RuntimeError
    content = encoded("avif").replace(b"pitm", b"xxxx")
    with pytest.raises(BrokenImageError, match="image the-id cannot be decoded"):
        decode(content, "the-id")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_every_color_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, "tiff")
    assert decode(buffer.getvalue(), "the-id").mode == "RGB"


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [4, 7, 100])
def test_evaluation_takes_each_row_once(digits: Dataset, world_size: int, batch_size: int) -> None:
    table = first_rows(digits, "val", 20)  # divides by neither 3 ranks nor 7 images
    seen: dict[str, int] = {}
    for rank in range(world_size):
        for batch in EvalBatches(table, VIEWS, batch_size, rank, world_size):
            assert len(batch.ids) == len(batch.labels) == len(batch.views["eval"]) <= batch_size
            assert not seen.keys() & set(batch.ids)
            seen |= dict(zip(batch.ids, batch.labels.tolist(), strict=True))
    assert seen == dict(zip(table.ids, table.labels.tolist(), strict=True))


def test_evaluating_again_gives_the_same_views(digits: Dataset) -> None:
    batches = EvalBatches(first_rows(digits, "val", 10), VIEWS, 4)
    next(iter(batches))  # an evaluation that was broken off must not count as all there is
    first, second = list(batches), list(batches)
    assert len(first) == 3
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)


def evaluation_views(table: ImageTable) -> torch.Tensor:
    """The evaluation views of all rows, made one by one."""
    images = [decode(image, name) for image, name in zip(table.images, table.ids, strict=True)]
    return torch.tensor(np.stack([make_view(image, VIEWS, "eval", 0) for image in images]))


def views_of(batches: EvalBatches) -> torch.Tensor:
    return torch.cat([batch.views["eval"] for batch in batches])


@pytest.mark.parametrize("kind", [EvalBatches, Unkept])
def test_all_evaluations_of_a_training_decode_once(
    digits: Dataset, kind: type[EvalBatches]
) -> None:
    table, taken = counted(first_rows(digits, "val", 10))
    expected = evaluation_views(first_rows(digits, "val", 10))
    batches = kind(table, VIEWS, 4)
    with batches.kept():
        for _ in range(3):
            views = [batch.views["eval"] for batch in batches]
            assert torch.equal(torch.cat(views), expected)
            # in one order of memory, or a convolution would round differently the first time
            assert all(each.is_contiguous() for each in views)
        assert taken == list(range(10))


def test_views_on_disk_are_gone_after_a_training_and_after_a_crash(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table, taken = counted(first_rows(digits, "val", 10))
    batches = Unkept(table, VIEWS, 4)
    maps = Path("/proc/self/maps")

    def train() -> None:
        with batches.kept():
            views_of(batches)
            assert str(tmp_path) in maps.read_text()
            assert not list(tmp_path.iterdir())  # a killed process leaves nothing
            raise RuntimeError("a training that fails")

    with pytest.raises(RuntimeError, match="a training that fails"):
        train()
    assert str(tmp_path) not in maps.read_text()
    for count in (20, 30):  # outside a training nothing is kept
        views_of(batches)
        assert len(taken) == count


def test_views_that_the_disk_has_no_room_for_are_made_again(
    digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    table, taken = counted(first_rows(digits, "val", 10))
    expected = evaluation_views(first_rows(digits, "val", 10))
    batches = Unkept(table, VIEWS, 4)
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the system refuses larger files, as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (expected.numel() - 1, hard))
    try:
        with batches.kept():
            for _ in range(2):
                assert torch.equal(views_of(batches), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert len(taken) == 20
    [message] = [record.getMessage() for record in caplog.records]
    assert "no room in" in message and "let TMPDIR be a folder" in message


def test_loader_processes_make_the_same_evaluation_batches(digits: Dataset) -> None:
    table, taken = counted(first_rows(digits, "val", 10))
    state = torch.get_rng_state()
    batches = EvalBatches(table, VIEWS, 3, loader_processes=1)
    for _ in range(2):
        assert torch.equal(views_of(batches), evaluation_views(first_rows(digits, "val", 10)))
    assert not taken  # by this process
    assert torch.equal(torch.get_rng_state(), state)


def test_a_multiplier_takes_the_first_rows_of_the_pool(digits: Dataset) -> None:
    units = pool_units(digits, 150)
    assert [(unit.start, unit.rows) for unit in units] == [(0, 64), (64, 64), (128, 22)]
    table = digits.read("pool")
    batches = training_batches(table, 50, VIEWS, ("weak",), unit_rows=[unit.rows for unit in units])
    seen = [image_id for step in range(3) for image_id in batches[step].ids]
    assert sorted(seen) == sorted(table.ids[:150])
