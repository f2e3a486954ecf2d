import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import Died, die_in_step, run_tiny, tiny_recipe

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.methods.fixmatch import FIXMATCH, FixmatchRecipe
from semigrid.trainers.methods.losses import soft_cross_entropy
from semigrid.trainers.methods.step import RankShard, StepContext, StepInput, StepTargets, Views
from semigrid.trainers.options import TrainOptions

VIT, RESNET = "vit_base_patch16_224.mae", "resnet18.tv_in1k"
ALONE = RankShard(lambda rows, wanted: rows[wanted[0]], 0, 1)
# softmax of the answers: 0.75 for class 0, 0.9 for class 1, 0.6 for class 0
ANSWERS = torch.tensor([[math.log(3), 0.0], [0.0, math.log(9)], [math.log(1.5), 0.0]])


def targets_of(threshold: float, **settings: Any) -> tuple[StepInput, StepTargets]:
    recipe = FixmatchRecipe(confidence_threshold=threshold, **settings)
    weak, strong, x = torch.randn(3, 3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    pool = Views({"weak": weak, "strong": strong})
    step = StepInput(Views({"weak": x[:2]}), torch.tensor([1, 0]), pool)

    def answer(images: torch.Tensor) -> torch.Tensor:
        assert torch.equal(images, weak)
        return ANSWERS

    context = StepContext(recipe, 2, ALONE, answer)
    return step, FIXMATCH.step_targets(step, context)


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, [0, 1, 2]), (0.7, [0, 1]), (0.95, [])])
@pytest.mark.parametrize("skip", [True, False])
def test_targets_by_hand(threshold: float, kept: list[int], skip: bool) -> None:
    settings = {"label_smoothing": 0.2, "unlabeled_loss_weight": 3, "skip_masked": skip}
    step, targets = targets_of(threshold, **settings)
    assert step.pool is not None
    labeled, unlabeled = targets.rows
    # the labelled weak views as they are, smoothed
    assert torch.equal(labeled.images, step.labeled["weak"]) and labeled.factor == 1
    torch.testing.assert_close(labeled.targets, torch.tensor([[0.1, 0.9], [0.9, 0.1]]))
    assert labeled.weights.tolist() == [0.5, 0.5] and labeled.numbers.tolist() == [0, 1]
    # the unmixed strong views of confident images, with the class of the weak view's answer
    rows = kept if skip else [0, 1, 2]
    assert torch.equal(unlabeled.images, step.pool["strong"][rows]) and unlabeled.factor == 3
    assert unlabeled.numbers.tolist() == [2 + row for row in rows]
    hard = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    torch.testing.assert_close(unlabeled.targets, hard[rows])
    expected = [1 / 3 if row in kept else 0.0 for row in rows]
    assert unlabeled.weights.tolist() == pytest.approx(expected)
    assert float(targets.averages["mask_rate"]) == pytest.approx(len(kept) / 3)
    assert targets.averages["pseudo_counts"].tolist() == [2, 1]


def test_the_unlabelled_loss_by_hand() -> None:
    _, targets = targets_of(0.7)
    rows = replace(targets.rows[1], targets=targets.rows[1].targets.clone())
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # the student's, for the two strong views
    loss = (soft_cross_entropy(logits, rows.targets) * rows.weights).sum()
    # 0.1 of smoothing over two classes; both rows of μB = 3 images
    right, wrong = math.log(1 + math.exp(-1)), math.log(1 + math.e)
    first = 0.95 * right + 0.05 * wrong
    second = 0.05 * right + 0.95 * wrong
    assert float(loss) == pytest.approx((first + second) / 3, rel=1e-5)


@pytest.mark.parametrize("backbone", [VIT, RESNET])
def test_published_values(backbone: str) -> None:
    recipe = published("fixmatch", backbone, {})
    assert isinstance(recipe, FixmatchRecipe)
    found = (recipe.confidence_threshold, recipe.unlabeled_loss_weight, recipe.unlabeled_ratio)
    assert found == (0.95, 1, 7) and recipe.batch_size == 64 and recipe.pool_batch_size == 448
    assert recipe.label_smoothing == 0 and recipe.teacher == "student"
    assert recipe.rand_augment and recipe.erase_prob == 0.25  # strong views are strong
    assert recipe.optimizer == ("adamw" if backbone == VIT else "sgd")
    with pytest.raises(InputError, match="mixup: only finetune, semi and distill use it"):
        published("fixmatch", backbone, {"mixup": 0.5})


def test_its_search_and_its_cost() -> None:
    recipe = resolve(published("fixmatch", RESNET, {}), "fixmatch", 1000, 100_000)
    space = FIXMATCH.search_space(recipe)
    assert space["confidence_threshold"] == (0.75, 0.95)
    assert space["unlabeled_loss_weight"] == (0.5, 2)
    assert space["base_lr"] == (0.005, 0.02) and "mixup" not in space
    assert FIXMATCH.forwards_per_step(recipe, True) == 3 * 64 + 4 * 448


@pytest.mark.parametrize("teacher", ["student", "ema"])
def test_interrupted_and_resumed_is_uninterrupted(
    digits: Dataset, tmp_path: Path, teacher: str
) -> None:
    recipe = tiny_recipe("fixmatch", teacher=teacher, drop_path=0.3, confidence_threshold=0.3)
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "fixmatch", recipe, whole)
    options = TrainOptions(checkpoint_seconds=0)
    for step in (2, 7):
        with pytest.raises(Died):
            run_tiny(digits, "fixmatch", recipe, parts, on_step=die_in_step(step), options=options)
    resumed = run_tiny(digits, "fixmatch", recipe, parts, options=options)
    assert resumed.resumed_at == [1, 6]
    assert replace(resumed, seconds=0) == replace(uninterrupted, seconds=0)
    assert 0 < uninterrupted.history[-1]["mask_rate"] <= 1
    one, other = whole.load(), parts.load()
    assert one is not None and other is not None
    for name in ("student", "ema"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])


def test_who_answers_changes_the_pseudo_labels(digits: Dataset, tmp_path: Path) -> None:
    def answers(teacher: str) -> list[tuple[float, float]]:
        recipe = tiny_recipe("fixmatch", teacher=teacher, confidence_threshold=0.4)
        checkpoints = Checkpoints(open_storage(tmp_path / teacher))
        history = run_tiny(digits, "fixmatch", recipe, checkpoints).history
        # val's pseudo labels are judged by the same network
        assert all("pseudo_coverage" in record for record in history)
        return [(record["mask_rate"], record["pseudo_entropy"]) for record in history]

    assert answers("student") != answers("ema")


def test_a_pool_that_never_passes_is_said_and_a_collapse_ends_it() -> None:
    never = [{"step": 10.0 * n, "mask_rate": 0.0, "pseudo_entropy": 2.0} for n in (1, 2, 3, 4)]
    assert FIXMATCH.pool_unused(never)
    recipe = FixmatchRecipe(collapse_evaluations=3)
    assert FIXMATCH.health(never, recipe, math.log(10)) is None
    one_class = [record | {"mask_rate": 0.9, "pseudo_entropy": 0.01} for record in never]
    message = FIXMATCH.health(one_class, recipe, math.log(10))
    assert message is not None and "next to all pseudo labels were of one class" in message
