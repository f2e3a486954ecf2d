"""What steps are given: made ahead, by one thread, and sent in two copies."""

import threading
import time
import traceback
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import (
    TEN_CLASSES,
    VIT,
    VIT_ARGS,
    tiny_recipe,
    tiny_streams,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.data.views.render import Batch, BrokenImageError
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.feed import Ahead, Parcels
from semigrid.trainers.loop.train import fast_float32, train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.models.create import create_model
from semigrid.trainers.recipe import SteppedRecipe

CPU = torch.device("cpu")


def training_of(
    digits: Dataset, folder: Path, recipe: SteppedRecipe, method: str = "semi", **streams: Any
) -> Training:
    """A training of a model that draws for itself: it has dropout."""
    model = create_model(VIT, 10, recipe, VIT_ARGS | {"proj_drop_rate": 0.3}, False, 0)
    return Training(
        recipe, method, model, None, replace(tiny_streams(digits, recipe, method), **streams),
        Runtime(Checkpoints(open_storage(folder)), device="cpu"),
        class_shares=TEN_CLASSES, seed=0,
    )  # fmt: skip


def feeding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_a_slow_source_and_a_slow_step_take_the_time_of_one() -> None:
    def source() -> Generator[int, None, None]:
        for number in range(40):
            time.sleep(0.05)
            yield number

    started = time.monotonic()
    for number, item in enumerate(Ahead(source(), int)):
        assert item == number
        time.sleep(0.05)
    assert number == 39 and time.monotonic() - started < 1.25 * 40 * 0.05
    assert not feeding()


def test_no_more_than_one_item_is_made_ahead() -> None:
    made: list[int] = []

    def source() -> Generator[int, None, None]:
        for number in range(5):
            made.append(number)
            yield number

    items = Ahead(source(), int)
    for number in items:
        time.sleep(0.05)
        assert made == list(range(min(number + 2, 5)))


def test_who_leaves_early_ends_the_thread_and_the_source() -> None:
    closed: list[str] = []

    def source() -> Generator[int, None, None]:
        try:
            yield from range(100)
        finally:
            closed.append(threading.current_thread().name)

    items = Ahead(source(), int)
    assert next(items) == 0 and feeding()
    items.close()
    assert len(closed) == 1 and closed[0].startswith("feed") and not feeding()
    assert list(items) == []
    items = Ahead(source(), int)
    next(items)
    del items  # forgotten: nobody waits for the thread, but it ends
    deadline = time.monotonic() + 10
    while feeding() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(closed) == 2 and not feeding()


def test_what_goes_wrong_in_a_source_ends_the_training_there(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("finetune")
    whole = tiny_streams(digits, recipe, "finetune").labeled

    def labeled(start: int, stop: int) -> Iterator[Batch]:
        for step, batch in enumerate(whole(start, stop)):
            if step == 3:
                raise BrokenImageError("image x cannot be decoded")
            yield batch

    training = training_of(digits, tmp_path, recipe, "finetune", labeled=labeled)
    with pytest.raises(BrokenImageError, match="image x cannot") as broken:
        train(training)
    assert training.outcome.step == 3 and not feeding()
    assert "in labeled" in "".join(traceback.format_tb(broken.tb))


def test_a_training_that_is_fed_ahead_has_the_same_numbers(digits: Dataset, tmp_path: Path) -> None:
    # views are drawn beside a model that draws, too: neither may see it
    recipe = tiny_recipe("semi", steps=12, evaluations=1, erase_prob=0.5)
    fed = training_of(digits, tmp_path / "fed", recipe)
    train(fed)
    alone = training_of(digits, tmp_path / "alone", recipe)
    for batches in alone.streams.batches(0, 12):
        alone.step(alone.feed.step(*batches))
    alone.outcome.step = 12
    alone.evaluate()
    assert alone.outcome.history == fed.outcome.history
    pairs = zip(*(each.networks.student.parameters() for each in (alone, fed)), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_tensors_of_all_kinds_arrive_in_one_copy_and_stay() -> None:
    sent = [
        torch.arange(7, dtype=torch.uint8).view(1, 7),
        torch.tensor([True, False, True]),
        torch.tensor(0.1, dtype=torch.float64),
        torch.empty(0, 5, dtype=torch.int64),
        torch.randn(2, 3, 5),
        torch.arange(12.0).view(3, 4).t(),
    ]
    parcels = Parcels(CPU)
    expected = [each.clone() for each in sent]
    first = parcels.send(sent).received()
    for each in sent:
        each.zero_()
    others = [parcels.send(sent).received() for _ in range(3)]  # over the same buffers
    for found, wanted in zip(first, expected, strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
    assert len({each.untyped_storage().data_ptr() for each in first}) == 1
    assert all(not each.any() for found in others for each in found)


class Operations(TorchDispatchMode):
    """Counts what the device is asked to do, and when the host reads its answer."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.count, self.reads = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name = func.__name__.split(".")[0]
        self.reads += [name] if name.startswith(self.READS) else []
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Counts calls that would take a tensor to a device, or back, if there were one.

    These are ``to`` with a device, which a tensor that is there already need not be asked, and
    tensors that are made of numbers for a device, as ``where`` does.
    """

    BACK = ("tolist", "numpy", "cpu")

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = list[str](), list[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        placed = "device" in kwargs or any(isinstance(each, torch.device) for each in args[1:])
        if name == "cuda" or (placed and name in ("to", "tensor", "as_tensor")):
            self.there.append(name)
        if name == "where" and any(isinstance(each, int | float) for each in args):
            self.there.append(name)
        self.back += [name] if name in self.BACK else []
        return func(*args, **kwargs)


@pytest.mark.parametrize(("method", "reads"), [("semi", 1), ("fixmatch", 1), ("finetune", 0)])
def test_a_step_takes_as_many_operations_for_any_batch(
    digits: Dataset, tmp_path: Path, method: str, reads: int
) -> None:
    found = []
    for size in (8, 16, 32):
        settings = {} if method == "finetune" else {"confidence_threshold": 0.0}
        recipe = tiny_recipe(method, batch_size=size, erase_prob=0.5, **settings)
        training = training_of(digits, tmp_path / f"{size}", recipe, method)
        [first, second] = training.streams.batches(0, 2)
        training.step(training.feed.step(*first))  # the optimiser makes its state
        with Calls() as calls:
            fed = training.feed.step(*second)
        assert calls.there == ["to", "to"]
        with Calls() as calls, Operations() as operations:
            training.step(fed)
        assert (calls.there, calls.back) == ([], [])
        assert len(operations.reads) == reads, operations.reads
        found.append(operations.count)
    assert len(set(found)) == 1


def test_a_gpu_is_fast_in_a_training_and_exact_after_it() -> None:
    """Here without a GPU: the settings that torch's CUDA kernels obey."""
    settings: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
    before = [each.fp32_precision for each in settings]
    assert before[1] != "tf32"
    with pytest.raises(KeyError), fast_float32(torch.device("cuda")):
        assert [each.fp32_precision for each in settings] == ["tf32", "tf32"]
        raise KeyError
    assert [each.fp32_precision for each in settings] == before
    with fast_float32(CPU):
        assert [each.fp32_precision for each in settings] == before
