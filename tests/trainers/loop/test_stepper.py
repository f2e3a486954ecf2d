import contextlib
import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.tiny import SimulatedRank, on_ranks, tiny_model, tiny_recipe
from timm.layers import DropPath
from torch import nn

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.stepper import (
    MicroBatchStepper,
    OutOfMemoryError,
    normalizes_over_batch,
)
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.methods.losses import LogitAdjustment
from semigrid.trainers.methods.semi import SEMI
from semigrid.trainers.methods.step import (
    RankShard,
    StepContext,
    StepInput,
    StepTargets,
    TargetRows,
    Views,
)
from semigrid.trainers.models.create import create_model
from semigrid.trainers.models.drop_path import CALLS, DropPaths, RowDropPath


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(open_storage(tmp_path))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Limited(nn.Module):
    """A model whose memory holds so many images, in training."""

    def __init__(self, model: nn.Module, images: int):
        super().__init__()
        self.model, self.images = model, images
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.images:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")
        result: torch.Tensor = self.model(x)
        return result


def stepper_of(
    model: nn.Module,
    runtime: Any,
    micro_batch: int | None = None,
    wrapped: nn.Module | None = None,
) -> MicroBatchStepper:
    drop_paths = DropPaths(model)
    drop_paths.step(drop_paths.draw(100, torch.Generator().manual_seed(0)))
    model.train()
    return MicroBatchStepper(
        wrapped or model,
        LogitAdjustment(np.arange(10), 10, 0, torch.device("cpu")),
        drop_paths,
        runtime,
        contextlib.nullcontext,
        torch.amp.GradScaler("cpu", enabled=False),
        micro_batch,
    )


@cache
def untouched_vit() -> nn.Module:
    return tiny_model(tiny_recipe("semi", drop_path=0.5))


def vit() -> nn.Module:
    return copy.deepcopy(untouched_vit())


@cache
def teacher() -> nn.Module:
    return tiny_model(tiny_recipe("semi", head_std=2.0), seed=7).eval()


def targets_of(threshold: float, skip: bool, rank: Any = None) -> StepTargets:
    """4 labelled and 8 unlabelled images, as the semi method makes them of random pixels."""
    recipe = tiny_recipe("semi", confidence_threshold=threshold, skip_masked=skip)
    rank_number, world_size = (0, 1) if rank is None else (rank.rank, rank.world_size)
    x, weak, strong = (noise(rows, 3, 16, 16, seed=i) for i, rows in enumerate((4, 8, 8)))
    x, weak, strong = (t.chunk(world_size)[rank_number] for t in (x, weak, strong))
    y = (torch.arange(4) % 10).chunk(world_size)[rank_number]
    fetch = (lambda rows, wanted: rows[wanted[0]]) if rank is None else rank.fetch
    shard = RankShard(fetch, rank_number, world_size)
    drawn = SEMI.draws(recipe, 4, 8, torch.Generator().manual_seed(5))
    with torch.no_grad():
        context = StepContext(recipe, 10, shard, teacher())
        pool = Views({"weak": weak, "strong": strong})
        step = StepInput(Views({"strong": x}), y, pool, draws=drawn)
        return SEMI.step_targets(step, context)


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def learnt(targets: StepTargets, runtime: Any, **settings: Any) -> tuple[list[float], torch.Tensor]:
    model = vit()
    losses = stepper_of(model, runtime, **settings).learn(targets)
    return [float(loss) for loss in losses], gradients(model)


def plain_gradient(targets: StepTargets) -> tuple[list[float], torch.Tensor]:
    """All rows through the model at once, docs/methods.md §4, line by line; same drop paths."""
    model = vit().train()
    drop_paths = DropPaths(model)
    drop_paths.step(drop_paths.draw(100, torch.Generator().manual_seed(0)))
    labeled, unlabeled = targets.rows
    numbers = torch.cat([labeled.numbers, unlabeled.numbers])
    drop_paths.use(numbers)
    logits = model(torch.cat([labeled.images, unlabeled.images]))
    losses = nn.functional.cross_entropy(
        logits, torch.cat([labeled.targets, unlabeled.targets]), reduction="none"
    )
    loss_x = losses[: len(labeled)].mean()
    loss_u = (losses[len(labeled) :] * (unlabeled.weights > 0)).sum() / 8
    (loss_x + 5 * loss_u).backward()
    return [loss_x.item(), loss_u.item()], gradients(model)


THRESHOLDS = [0.0, 0.6, 1.0]


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_masked_images_change_no_gradient(threshold: float, checkpoints: Checkpoints) -> None:
    runtime = Runtime(checkpoints, device="cpu")
    full = targets_of(threshold, skip=False)
    expected, expected_gradient = plain_gradient(full)
    skipped = targets_of(threshold, skip=True)
    for targets in (full, skipped):
        losses, gradient = learnt(targets, runtime)
        assert losses == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


def test_thresholds_of_these_tests_mask_none_some_and_all() -> None:
    kept = [len(targets_of(threshold, True).rows[1]) for threshold in THRESHOLDS]
    assert kept[0] == 8 and 8 > kept[1] > 0 and kept[2] == 0


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 11, 12, 100])
def test_micro_batches_have_the_gradient_of_the_whole(
    micro_batch: int, checkpoints: Checkpoints
) -> None:
    runtime = Runtime(checkpoints, device="cpu")
    targets = targets_of(0.6, skip=True)
    losses, gradient = learnt(targets, runtime)
    model = vit()
    limited = Limited(model, micro_batch)
    found = stepper_of(model, runtime, micro_batch, wrapped=limited).learn(targets)
    assert [float(loss) for loss in found] == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(gradients(model), gradient, rtol=1e-5, atol=5e-6)
    assert max(limited.seen) - min(limited.seen) <= 1  # as even as they divide


def test_when_memory_runs_out_the_micro_batch_is_halved_and_the_step_repeated(
    checkpoints: Checkpoints,
) -> None:
    runtime = Runtime(checkpoints, device="cpu")
    targets = targets_of(0.0, skip=True)
    losses, gradient = learnt(targets, runtime)
    model = vit()
    limited = Limited(model, 4)
    stepper = stepper_of(model, runtime, wrapped=limited)
    found = stepper.learn(targets)
    assert [float(loss) for loss in found] == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(gradients(model), gradient, rtol=1e-6, atol=1e-6)
    assert checkpoints.load_micro_batch() == 3  # after 6 of 12 rows
    assert limited.seen == [12, 6, 3, 3, 3, 3]
    stepper.learn(targets)  # the next step knows
    assert limited.seen[6:] == [3, 3, 3, 3]


class Balking(nn.Module):
    """Memory runs out in this backward, the first time."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.balked = model, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x)
        logits.register_hook(self._balk)
        return logits

    def _balk(self, gradient: torch.Tensor) -> None:
        if not self.balked:
            self.balked = True
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")


def test_a_backward_without_memory_is_repeated_too(checkpoints: Checkpoints) -> None:
    runtime = Runtime(checkpoints, device="cpu")
    targets = targets_of(0.0, skip=True)
    _, gradient = learnt(targets, runtime)
    model = vit()
    stepper = stepper_of(model, runtime, wrapped=Balking(model))
    stepper.learn(targets)
    assert stepper.micro_batch == 6
    torch.testing.assert_close(gradients(model), gradient, rtol=1e-6, atol=1e-6)


def test_not_one_image_fits(checkpoints: Checkpoints) -> None:
    model = vit()
    runtime = Runtime(checkpoints, device="cpu")
    with pytest.raises(OutOfMemoryError, match="too small for one image; use a smaller model"):
        stepper_of(model, runtime, wrapped=Limited(model, 0)).learn(targets_of(0.6, True))


def test_ranks_halve_together(checkpoints: Checkpoints) -> None:
    # only rank 1 runs out: rank 0 must not go on to a meeting that rank 1 will not come to
    vit(), teacher()  # made before the threads, which share one random generator

    def work(rank: SimulatedRank) -> tuple[list[int], torch.Tensor]:
        model = vit()
        limited = Limited(model, 2 if rank.rank == 1 else 100)
        stepper_of(model, rank, wrapped=limited).learn(targets_of(0.0, True, rank))
        return limited.seen, gradients(model)

    [(whole, expected)] = on_ranks(1, checkpoints, work)
    assert whole == [12]
    (first, a), (second, b) = on_ranks(2, checkpoints, work)
    assert first == [6, 3, 3, 2, 2, 2] and second == [6, 3, 2, 2, 2]
    torch.testing.assert_close((a + b) / 2, expected, rtol=1e-5, atol=1e-6)


def resnet() -> nn.Module:
    recipe = resolve(
        published("finetune", "resnet18", {"steps": 8, "img_size": 32}), "finetune", 9, 0
    )
    return create_model("test_resnet", 10, recipe, {}, False, 0)


def test_batch_normalisation_keeps_labelled_and_unlabelled_apart(checkpoints: Checkpoints) -> None:
    # L_x is that of the labelled batch, by its own statistics
    model = resnet()
    assert normalizes_over_batch(model) and not normalizes_over_batch(vit())
    limited = Limited(model, 100)
    targets = targets_of(0.6, skip=False)
    stepper_of(model, Runtime(checkpoints, device="cpu"), wrapped=limited).learn(targets)
    assert limited.seen == [4, 8]


def test_batch_normalisation_is_never_split(checkpoints: Checkpoints) -> None:
    model = resnet()
    runtime = Runtime(checkpoints, device="cpu")
    stepper = stepper_of(model, runtime, wrapped=Limited(model, 3))
    with pytest.raises(OutOfMemoryError, match="batch normalisation cannot be split"):
        stepper.learn(targets_of(0.6, skip=False))


class OneOfTwo(Runtime):
    """A rank that believes it has a neighbour."""

    world_size = 2


@pytest.mark.parametrize(("micro_batch", "hint"), [(None, 6), (1, None)])
def test_a_group_that_lost_its_step_is_told_to_split_next_time(
    checkpoints: Checkpoints, micro_batch: int | None, hint: int | None
) -> None:
    # in the last backward the ranks are in the middle of a meeting: only a restart helps
    model = vit()
    runtime = OneOfTwo(checkpoints, device="cpu")
    wrapped = Limited(model, 0) if micro_batch else Balking(model)
    stepper = stepper_of(model, runtime, micro_batch, wrapped=wrapped)
    with pytest.raises((torch.OutOfMemoryError, OutOfMemoryError)):
        stepper.learn(targets_of(0.0, skip=True))
    assert checkpoints.load_micro_batch() == hint


def test_a_group_with_batch_normalisation_is_not_told_to_split(checkpoints: Checkpoints) -> None:
    # it could not, and would refuse to start for ever
    for limited in (Balking, lambda model: Limited(model, 3)):
        model = resnet()
        runtime = OneOfTwo(checkpoints, device="cpu")
        stepper = stepper_of(model, runtime, wrapped=limited(model))
        with pytest.raises(torch.OutOfMemoryError):
            stepper.learn(targets_of(0.6, skip=False))
        assert checkpoints.load_micro_batch() is None


def test_drop_paths_drop_with_their_probability_and_keep_the_expectation() -> None:
    model = nn.Sequential(DropPath(0.25), nn.Identity())
    drop_paths = DropPaths(model)
    drop_paths.step(drop_paths.draw(10_000, torch.Generator().manual_seed(0)))
    numbers = torch.arange(10_000)
    drop_paths.use(numbers)
    model.train()
    output = model(torch.ones(10_000, 2, 3))
    kept = output[:, 0, 0] > 0
    assert kept.float().mean() == pytest.approx(0.75, abs=0.02)
    assert torch.equal(output[kept], torch.full_like(output[kept], 4 / 3))
    assert not output[~kept].any()
    # any choice of rows gets the same draws
    chosen = torch.tensor([5, 17, 3])
    drop_paths.use(chosen)
    assert torch.equal(model(torch.ones(3, 2, 3)), output[chosen])
    assert torch.equal(model.eval()(torch.ones(3, 2, 3)), torch.ones(3, 2, 3))


def test_a_drop_path_used_twice_draws_twice() -> None:
    # CaiT and others have one for attention and MLP; one draw for both would be another method
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop_path = DropPath(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.drop_path(x), self.drop_path(x)], dim=1)

    model = Twice().train()
    drop_paths = DropPaths(model)
    drop_paths.step(drop_paths.draw(1000, torch.Generator().manual_seed(0)))
    drop_paths.use(torch.arange(1000))
    first, second = model(torch.ones(1000, 1)).squeeze(2).unbind(1)
    assert ((first > 0) == (second > 0)).float().mean() == pytest.approx(0.5, abs=0.05)
    drop_paths.use(torch.arange(1000))  # every forward starts with the first draw
    assert torch.equal(model(torch.ones(1000, 1))[:, 0, 0], first)


def test_drop_paths_of_other_rows_are_timms() -> None:
    # a model that drops windows, not images
    module = RowDropPath(0.5).train()
    module.scales = torch.ones(CALLS, 4)
    torch.manual_seed(0)
    output = module(torch.ones(64, 1))
    assert set(output.flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    "backbone", ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_every_drop_path_of_a_model_is_found(backbone: str) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(backbone, drop_path_rate=0.1)
        again = timm.create_model(backbone, drop_path_rate=0.1)
    found = DropPaths(model).modules
    theirs = [module for module in again.modules() if isinstance(module, DropPath)]
    assert [m.drop_prob for m in found] == [m.drop_prob for m in theirs] and found
    assert not any(isinstance(module, DropPath) for module in model.modules())
    assert model.state_dict().keys() == again.state_dict().keys()


def test_rows_count_themselves() -> None:
    empty = torch.empty(0)
    assert len(TargetRows(torch.empty(3, 3, 8, 8), empty, empty, empty)) == 3
