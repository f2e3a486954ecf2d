"""The stream by Ray, image by image the one in memory."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from semigrid.data.batches import MemoryBatches
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import Dataset
from semigrid.data.splits import seeded_order
from semigrid.data.storage import open_storage
from semigrid.data.views.render import Batch
from semigrid.trainers.cluster.ray_nodes import NODE_ID
from semigrid.trainers.trial.data import pool_units, view_settings

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def streams(digits: Dataset, share: Share, rows: int = 700) -> tuple[Any, MemoryBatches]:
    """The Ray and the in-memory stream over the same order; the last row group is cut."""
    from tests.helpers.tiny import tiny_recipe

    from semigrid.data.stream import RayBatches

    settings = view_settings(
        tiny_recipe("semi", color_jitter=0.4, erase_prob=0.5), ((0.5,) * 3, (0.5,) * 3)
    )
    units = pool_units(digits, rows)
    order = StreamOrder([unit.rows for unit in units], seed=5)
    views = ("weak", "strong")
    return (
        RayBatches(digits.storage, units, order, share, settings, views, seed=5),
        MemoryBatches(digits.read("pool"), order, share, settings, views, seed=5),
    )


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.ids == expected.ids
    assert torch.equal(found.erasures, expected.erasures)
    assert torch.equal(found.labels, expected.labels)
    for view in ("weak", "strong"):
        assert torch.equal(found.views[view], expected.views[view])


@pytest.mark.parametrize(("rank", "world_size", "start"), [(0, 1, 0), (1, 2, 0), (0, 1, 17)])
def test_the_ray_stream_equals_the_in_memory_one(
    cluster: None, digits: Dataset, rank: int, world_size: int, start: int
) -> None:
    # 700 rows at 96 a step: batches straddle row groups, and 20 steps more than two passes
    by_ray, in_memory = streams(digits, Share(96, rank, world_size))
    if start:
        by_ray.nodes = lambda: {NODE_ID: "!in(another)"}
    batches = list(by_ray(start, 20))
    assert len(batches) == 20 - start
    for step, batch in enumerate(batches, start):
        assert_same(batch, in_memory[step])


def test_a_stream_that_met_an_unfit_node_goes_on_where_it_stood(
    cluster: None, digits: Dataset, tmp_path: Path
) -> None:
    by_ray, in_memory = streams(digits, Share(96))
    copy = tmp_path / "digits"
    for file in [shard.file for shard in digits.manifest.shards]:
        open_storage(copy).write(file, digits.storage.read(file))
    by_ray.storage = open_storage(copy)
    shards = sorted(copy.glob("pool*"))
    asked: list[int] = []

    def nodes() -> dict[str, str] | None:
        """After the first failure the node that lacks the dataset is known."""
        asked.append(1)
        if len(asked) == 3:
            for shard in shards:
                shard.with_suffix(".gone").rename(shard)
        return {NODE_ID: "!in(another)"} if len(asked) > 2 else None

    by_ray.nodes = nodes
    found = iter(by_ray(3, 6))
    for shard in shards:
        shard.rename(shard.with_suffix(".gone"))
    for step, batch in enumerate(found, 3):
        assert_same(batch, in_memory[step])
    assert step == 5 and len(asked) == 4
    by_ray.storage = open_storage(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        list(by_ray(3, 6))


@pytest.fixture
def spoiled(tmp_path: Path) -> Dataset:
    """A pool of three row groups of ten images with five broken ones, four of them in a row."""
    image = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(image, "png")
    rows = [StoredImage(f"{i:02d}", image.getvalue(), None, "pool", str(i)) for i in range(30)]
    rows += [StoredImage(s, image.getvalue(), 0, s, s) for s in ("train", "val", "test")]
    order = seeded_order([row.image_id for row in rows[:30]], 0)
    for place in (0, 13, 14, 15, 16):
        rows[order[place]] = replace(rows[order[place]], image=b"no image")
    where = str(tmp_path / "set")
    return write_dataset(
        where, rows, name="", classes=["a"], license="", source="", rows_per_group=10
    )


def test_broken_rows_are_replaced_and_listed_as_in_memory(cluster: None, spoiled: Dataset) -> None:
    by_ray, in_memory = streams(spoiled, Share(6), rows=30)
    broken = 0
    for step, batch in enumerate(by_ray(2, 10), 2):
        assert_same(batch, in_memory[step])
        assert batch.broken == in_memory[step].broken
        broken += len(batch.broken)
    assert broken >= 5


def test_ranks_stream_side_by_side_also_where_a_task_has_no_row_for_them(
    cluster: None, spoiled: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semigrid.data import stream

    monkeypatch.setattr(stream, "TASK_BYTES", 1)  # a task is ten rows, and a rank's share thirty
    ranks = [streams(spoiled, Share(60, rank, 2), rows=30) for rank in range(2)]
    batches = zip(*(by_ray(0, 3) for by_ray, _ in ranks), strict=True)
    for step, found in enumerate(batches):
        for batch, (_, in_memory) in zip(found, ranks, strict=True):
            assert_same(batch, in_memory[step])


def test_a_resume_reads_nothing_that_came_before_it(cluster: None, tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(image, "png")
    rows = [StoredImage(f"{i:02d}", image.getvalue(), None, "pool", str(i)) for i in range(30)]
    rows += [StoredImage(s, image.getvalue(), 0, s, s) for s in ("train", "val", "test")]
    size = {"rows_per_group": 10, "groups_per_shard": 1}
    where = str(tmp_path / "set")
    dataset = write_dataset(where, rows, name="", classes=["a"], license="", source="", **size)
    by_ray, in_memory = streams(dataset, Share(5), rows=30)
    expected = [in_memory[step] for step in range(2, 6)]
    read_first = by_ray.units[by_ray.order.span_at(0).unit].file
    (tmp_path / "set" / read_first).unlink()  # steps 0 and 1 are its rows
    for batch, as_before in zip(by_ray(2, 6), expected, strict=True):
        assert_same(batch, as_before)
    with pytest.raises(FileNotFoundError):
        next(by_ray(0, 6))


@pytest.mark.parametrize("at_once", ["batches", "parts"])
def test_a_long_run_is_several_executions_and_the_same_batches(
    cluster: None, digits: Dataset, monkeypatch: pytest.MonkeyPatch, at_once: str
) -> None:
    from semigrid.data import stream

    monkeypatch.setattr(stream, "MAX_TASKS", 2)
    monkeypatch.setattr(stream, "TASK_BYTES", 300_000)  # three spans of 64 digits
    # handed on in whole batches, or in parts of 26 digits
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1)
    monkeypatch.setattr(stream, "MOST_BLOCK_BYTES", {"batches": 300_000, "parts": 40_000}[at_once])
    by_ray, in_memory = streams(digits, Share(96))
    for step, batch in enumerate(by_ray(1, 14), 1):  # 1,248 rows of 64 a span
        assert_same(batch, in_memory[step])
