"""The batches of a training's steps."""

from collections.abc import Iterator
from typing import cast

import pytest
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


@pytest.mark.parametrize("short", ["labeled", "pool"])
def test_a_stream_that_ends_early_is_no_end_of_a_training(short: str) -> None:
    def source(missing: int) -> BatchSource:
        def batches(start: int, stop: int) -> Iterator[Batch]:
            return iter([cast(Batch, step) for step in range(start, stop - missing)])

        return batches

    streams = Streams(source(short == "labeled"), source(short == "pool"), None, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(streams.batches(0, 4))
