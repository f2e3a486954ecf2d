"""The batches of a training's steps."""

from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from typing import cast

import pytest
import torch
from tests.helpers.tiny import tiny_recipe, tiny_streams

from semigrid.data.schema import Dataset
from semigrid.data.views.render import Batch
from semigrid.trainers.loop.streams import BatchSource, Streams


@pytest.mark.parametrize("method", ["finetune", "semi"])
def test_each_step_has_its_batches(digits: Dataset, method: str) -> None:
    streams = tiny_streams(digits, tiny_recipe(method), method)
    found = list(streams.batches(3, 6))
    assert [step for step, _, _ in found] == [3, 4, 5]
    assert all((pool is None) == (method == "finetune") for _, _, pool in found)


def test_labeled_and_pool_batches_of_a_step_are_made_by_the_same_process(digits: Dataset) -> None:
    streams = tiny_streams(digits, tiny_recipe("semi"), "semi")
    before, drawn = {*active_children()}, torch.get_rng_state()
    by_process = replace(streams, loader_processes=1).batches(3, 6)
    found = [next(by_process)]
    assert len({*active_children()} - before) == 1
    found += by_process
    assert torch.equal(torch.get_rng_state(), drawn)
    for made, here in zip(found, streams.batches(3, 6), strict=True):
        assert made[0] == here[0]
        for ours, same in zip(made[1:], here[1:], strict=True):
            assert ours is not None and same is not None and ours.ids == same.ids
            assert all(torch.equal(ours.views[view], same.views[view]) for view in same.views)


@pytest.mark.parametrize("short", ["labeled", "pool"])
def test_a_stream_that_ends_early_is_no_end_of_a_training(short: str) -> None:
    def source(missing: int) -> BatchSource:
        def batches(start: int, stop: int) -> Iterator[Batch]:
            return iter([cast(Batch, step) for step in range(start, stop - missing)])

        return batches

    streams = Streams(source(short == "labeled"), source(short == "pool"), None, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(streams.batches(0, 4))
