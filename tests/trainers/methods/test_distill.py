"""A student learns labels, and what its teachers say of the pool."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.tiny import Died, die_in_step, run_tiny, tiny_model, tiny_recipe, tiny_streams
from torch import nn

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.stepper import MicroBatchStepper
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.methods.distill import DISTILL, DistillRecipe
from semigrid.trainers.methods.losses import LogitAdjustment
from semigrid.trainers.methods.method import Stepped
from semigrid.trainers.methods.step import RankShard, StepContext, StepInput, StepTargets, Views
from semigrid.trainers.models.drop_path import DropPaths
from semigrid.trainers.options import TrainOptions

VIT, RESNET = "vit_base_patch16_224.mae", "resnet18.tv_in1k"
ALONE = RankShard(lambda rows, wanted: rows[wanted[0]], 0, 1)


def context_of(recipe: DistillRecipe) -> StepContext[DistillRecipe]:
    def nobody(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the teachers were asked before the training")

    return StepContext(recipe, 2, ALONE, nobody)


def targets_of(soft: list[list[float]], **settings: Any) -> tuple[StepInput, StepTargets]:
    recipe = DistillRecipe(mixup=0, cutmix=0, label_smoothing=0.2, **settings)
    x, strong = torch.randn(2, 3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    pool = Views({"strong": strong})
    step = StepInput(Views({"strong": x[:2]}), torch.tensor([1, 0]), pool, torch.tensor(soft))
    return step, DISTILL.step_targets(step, context_of(recipe))


def test_targets_by_hand() -> None:
    step, targets = targets_of([[0.8, 0.2], [0.5, 0.5], [0.0, 0.0]], unlabeled_loss_weight=3)
    assert step.pool is not None
    labeled, pool = targets.rows
    assert torch.equal(labeled.images, step.labeled["strong"]) and labeled.factor == 1
    torch.testing.assert_close(labeled.targets, torch.tensor([[0.1, 0.9], [0.9, 0.1]]))
    assert torch.equal(pool.images, step.pool["strong"])
    # as they are, unsmoothed; an image that no teacher could be shown teaches nothing
    torch.testing.assert_close(pool.targets, torch.tensor([[0.8, 0.2], [0.5, 0.5], [0.0, 0.0]]))
    assert pool.weights.tolist() == pytest.approx([1 / 3] * 3) and pool.factor == 3
    assert pool.numbers.tolist() == [2, 3, 4]
    # 1 − H / ln 2, H(0.8, 0.2) = 0.5004 and H(½, ½) = ln 2
    mean = (0.8 * math.log(1.25) + 0.2 * math.log(5) + math.log(2)) / 3
    certainty = float(targets.averages["soft_target_certainty"])
    assert certainty == pytest.approx(1 - mean / math.log(2), abs=1e-6)


def test_a_temperature_softens_what_the_teachers_say() -> None:
    _, targets = targets_of([[0.8, 0.2]] * 3, temperature=2.0)
    # √0.8 : √0.2 = 2 : 1
    torch.testing.assert_close(targets.rows[1].targets, torch.tensor([[2 / 3, 1 / 3]] * 3))
    assert targets.rows[1].factor == 4  # T², so that gradients stay as large


class Reader(nn.Module):
    """Logits are the mean of the first two channels, times a weight that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.weight * images.mean(dim=(2, 3))[:, :2]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_loss_has_the_gradient_of_the_divergence(
    tmp_path: Path, temperature: float, micro_batch: int | None
) -> None:
    student = Reader()
    drop_paths = DropPaths(student)
    drop_paths.step(drop_paths.draw(5, torch.Generator()))
    stepper = MicroBatchStepper(
        student,
        LogitAdjustment(np.arange(2), 2, 0, torch.device("cpu")),
        drop_paths,
        Runtime(Checkpoints(open_storage(tmp_path)), device="cpu"),
        contextlib.nullcontext,
        torch.amp.GradScaler("cpu", enabled=False),
        micro_batch,
    )
    p = [[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]]
    step, targets = targets_of(p, temperature=temperature, unlabeled_loss_weight=0.5)
    losses = stepper.learn(targets)

    twin = Reader()  # the same by the definitions of cross-entropy and KL divergence
    labeled = torch.nn.functional.cross_entropy(
        twin(step.labeled["strong"]), step.y, label_smoothing=0.2
    )
    assert step.pool is not None
    q = torch.tensor(p) ** (1 / temperature)
    q = q / q.sum(dim=1, keepdim=True)
    log_s = (twin(step.pool["strong"]) / temperature).log_softmax(dim=1)
    divergence = (q * (q.log() - log_s)).sum(dim=1).mean()
    (labeled + 0.5 * temperature**2 * divergence).backward()
    assert student.weight.grad is not None and twin.weight.grad is not None
    torch.testing.assert_close(student.weight.grad, twin.weight.grad)
    assert losses[0].item() == pytest.approx(labeled.item(), rel=1e-5)
    entropy = float(-(q * q.log()).sum(dim=1).mean())
    assert losses[1].item() - entropy == pytest.approx(divergence.item(), abs=1e-6)


@pytest.mark.parametrize("backbone", [VIT, RESNET])
def test_published_values_search_and_cost(backbone: str) -> None:
    recipe = resolve(published("distill", backbone, {}), "distill", 1000, 100_000)
    assert isinstance(recipe, DistillRecipe)
    assert (recipe.unlabeled_loss_weight, recipe.temperature) == (1, 1)
    assert (recipe.batch_size, recipe.pool_batch_size) == (128, 640)
    assert (recipe.optimizer, recipe.layer_decay) == (
        ("adamw", 0.75) if backbone == VIT else ("sgd", 1)
    )
    space = DISTILL.search_space(recipe)
    assert space["unlabeled_loss_weight"] == (0.5, 2) and "weight_decay" in space
    # forward and backward of every image; teachers answered once, before
    assert DISTILL.forwards_per_step(recipe, True) == 3 * (128 + 640)


def test_interrupted_and_resumed_is_uninterrupted(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("distill", drop_path=0.3, temperature=2)
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "distill", recipe, whole)
    options = TrainOptions(checkpoint_seconds=0)
    for step in (2, 7):
        with pytest.raises(Died):
            run_tiny(digits, "distill", recipe, parts, on_step=die_in_step(step), options=options)
    resumed = run_tiny(digits, "distill", recipe, parts, options=options)
    assert resumed.resumed_at == [1, 6]
    assert replace(resumed, seconds=0) == replace(uninterrupted, seconds=0)
    one, other = whole.load(), parts.load()
    assert one is not None and other is not None
    assert all(torch.equal(one["student"][key], other["student"][key]) for key in one["student"])


def test_it_learns_what_the_targets_say(digits: Dataset, tmp_path: Path) -> None:
    # half of the pool is said to be a zero, half a one: the student comes to answer so
    def soft(ids: Sequence[str]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([len(n) % 2 for n in ids]), 10).float()

    recipe = tiny_recipe("distill", steps=40, unlabeled_ratio=4, evaluations=1)
    streams = replace(tiny_streams(digits, recipe, "distill"), soft_targets=soft)
    model = tiny_model(recipe)
    checkpoints = Checkpoints(open_storage(tmp_path))
    history = run_tiny(digits, "distill", recipe, checkpoints, model=model, streams=streams).history
    assert history[-1]["soft_target_certainty"] == pytest.approx(1)
    assert history[-1]["unlabeled_loss"] < math.log(10)


def test_teachers_that_guess_teach_nothing_and_it_is_said() -> None:
    assert DISTILL.pool_unused([{"soft_target_certainty": 0.004}]) is not None
    assert DISTILL.pool_unused([{"soft_target_certainty": 0.3}]) is None
    assert DISTILL.pool_unused([]) is None


@pytest.mark.parametrize(("pool", "parent"), [("optional", "none"), ("required", "optional")])
def test_soft_targets_need_a_pool_and_a_backbone(pool: Any, parent: Any) -> None:
    with pytest.raises(TypeError, match="soft_targets are those of a pool"):
        replace(DISTILL, pool=pool, parent=parent)
    assert isinstance(DISTILL, Stepped)
