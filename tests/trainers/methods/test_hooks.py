"""What the loop asks of a method, by a method that uses all of it; and the document's method."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.packages import from_document, on_path
from tests.helpers.tiny import (
    TEN_CLASSES,
    Died,
    SimulatedRank,
    die_in_step,
    on_ranks,
    run_tiny,
    tiny_model,
    tiny_recipe,
    tiny_streams,
)
from timm.layers import DropPath

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import find_method, registry
from semigrid.trainers.methods.finetune import FINETUNE, FinetuneRecipe
from semigrid.trainers.methods.method import Stepped
from semigrid.trainers.methods.rows import labeled_rows
from semigrid.trainers.methods.step import RankShard, StepContext, StepInput, StepTargets, Views
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions


class Count(torch.nn.Module):
    """How many labels of each class were seen; rarer classes weigh more."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.ones(num_classes))


def counting_targets(step: StepInput, context: StepContext[FinetuneRecipe]) -> StepTargets:
    shard = context.shard
    context.state.seen += torch.bincount(shard.everywhere(step.y), minlength=10)
    rows = labeled_rows(step.labeled["weak"], step.y, context)
    again = labeled_rows(step.labeled["strong"], step.y, context)
    weights = rows.weights / context.state.seen[step.y] * 10
    numbers = shard.own_numbers(len(step.y), after=len(step.y))
    return StepTargets(
        [
            replace(rows, weights=weights),
            replace(again, weights=weights, numbers=numbers, factor=0.5, loss="strong_loss"),
        ],
        {"commonest": context.state.seen.max()},
    )


def freeze(model: torch.nn.Module, recipe: FinetuneRecipe) -> None:
    model.requires_grad_(False)
    model.get_classifier().requires_grad_(True)  # type: ignore[operator]


COUNTING = replace(
    FINETUNE,
    name="counting",
    step_targets=counting_targets,
    labeled_views=("weak", "strong"),
    rows_per_step=lambda recipe, with_pool: 2 * recipe.batch_size,
    state=lambda recipe, num_classes, device: Count(num_classes).to(device),
)


def recording(average: float, measured: dict[str, float]) -> Stepped[Any]:
    """A method that records a number of each step, and numbers at each evaluation."""

    def step_targets(step: StepInput, context: StepContext[FinetuneRecipe]) -> StepTargets:
        rows = labeled_rows(step.labeled["strong"], step.y, context)
        return StepTargets([rows], {"spread": torch.tensor(average)})

    return replace(
        FINETUNE,
        name="recording",
        step_targets=step_targets,
        teacher=lambda recipe: "student",
        measures=lambda predictions, recipe: measured,
    )


def add(method: Stepped[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, method))
    registry.forget()


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    add(COUNTING, monkeypatch)
    yield
    registry.forget()


def checkpoints(folder: Path) -> Checkpoints:
    return Checkpoints(open_storage(folder))


def test_what_a_method_keeps_survives_an_interruption(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("counting", drop_path=0.3)
    whole, parts = checkpoints(tmp_path / "whole"), checkpoints(tmp_path / "parts")
    uninterrupted = run_tiny(digits, "counting", recipe, whole)
    every = TrainOptions(checkpoint_seconds=0)
    for step in (3, 6):
        with pytest.raises(Died):
            options = {"on_step": die_in_step(step), "options": every}
            run_tiny(digits, "counting", recipe, parts, **options)
    resumed = run_tiny(digits, "counting", recipe, parts, options=every)
    assert resumed.resumed_at == [2, 5]
    assert replace(resumed, seconds=0) == replace(uninterrupted, seconds=0)
    one, other = whole.load(), parts.load()
    assert one is not None and other is not None
    assert float(one["method"]["seen"].sum()) == 10 + 8 * 4  # 8 steps of 4 labelled images
    for name in ("student", "ema", "method"):
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])


def test_every_loss_of_a_step_is_recorded_by_its_name(digits: Dataset, tmp_path: Path) -> None:
    history = run_tiny(digits, "counting", tiny_recipe("counting"), checkpoints(tmp_path)).history
    for record in history:
        parts = record["labeled_loss"] + 0.5 * record["strong_loss"]
        assert record["loss"] == pytest.approx(parts, rel=1e-6)
    assert "commonest" in history[0] and "mask_rate" not in history[0]


def test_two_ranks_keep_and_learn_what_one_does(digits: Dataset, tmp_path: Path) -> None:
    views = {v: torch.randn(4, 3, 4, 4) for v in ("weak", "strong")}
    step = StepInput(Views(views), torch.arange(4) % 2)
    recipe = tiny_recipe("counting")

    def targets_on(rank: SimulatedRank) -> tuple[StepTargets, torch.Tensor]:
        mine = slice(rank.rank * 4 // rank.world_size, (rank.rank + 1) * 4 // rank.world_size)
        own = StepInput(Views({n: view[mine] for n, view in views.items()}), step.y[mine])
        shard = RankShard(rank.fetch, rank.rank, rank.world_size)
        context: Any = StepContext(recipe, 10, shard, lambda weak: weak, state=Count(10))
        return counting_targets(own, context), context.state.seen

    [(whole, seen)] = on_ranks(1, checkpoints(tmp_path), targets_on)
    parts = on_ranks(2, checkpoints(tmp_path), targets_on)
    assert all(torch.equal(kept, seen) for _, kept in parts)
    for number, rows in enumerate(whole.rows):
        found = [targets.rows[number] for targets, _ in parts]
        assert torch.cat([each.numbers for each in found]).tolist() == rows.numbers.tolist()
        torch.testing.assert_close(torch.cat([each.weights for each in found]) / 2, rows.weights)
    assert sorted(n for rows in whole.rows for n in rows.numbers.tolist()) == list(range(8))


def test_a_method_ends_a_training_and_says_why(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def health(history: Any, recipe: Any, natural: float) -> str | None:
        return "enough is seen" if history[-1]["commonest"] > 3 + natural else None

    add(replace(COUNTING, name="ending", health=health), monkeypatch)
    recipe = tiny_recipe("ending", steps=30, evaluations=15)
    outcome = run_tiny(digits, "ending", recipe, checkpoints(tmp_path))
    assert (outcome.status, outcome.error) == ("collapsed", "enough is seen")
    assert outcome.history[-1]["commonest"] > 3 and outcome.step < 30


@pytest.mark.parametrize(
    ("average", "measured", "problem"),
    [
        (0.5, {"drift": float("nan")}, "drift, which it records, is nan at step 2, no finite"),
        (0.5, {"drift": np.float64("-inf")}, "drift, which it records, is -inf at step 2"),
        (float("nan"), {}, "spread, which it records, is nan at step 2, no finite number: leave"),
        (0.5, {"drift": 1e39}, "drift, which it records, is 1e+39 at step 2"),
        (0.5, {"ema_acc1": 3.0}, "ema_acc1, which it records, is a name that the evaluation"),
        (0.5, {"spread": 3.0}, "spread, which it records, is a name that the evaluation"),
    ],
)
def test_a_number_that_no_record_can_hold_ends_the_training(
    average: float,
    measured: dict[str, float],
    problem: str,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(recording(average, measured), monkeypatch)
    with pytest.raises(InputError) as refused:
        run_tiny(digits, "recording", tiny_recipe("recording"), checkpoints(tmp_path))
    [message] = refused.value.problems
    assert message.startswith(f"method recording: {problem}")


def test_numbers_of_numpy_are_recorded_and_resumed(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(recording(0.5, {"mask_rate": np.float64(37), "drift": np.float32(0.25)}), monkeypatch)
    recipe, left = tiny_recipe("recording"), checkpoints(tmp_path)
    with pytest.raises(Died):
        run_tiny(digits, "recording", recipe, left, on_step=die_in_step(3))
    outcome = run_tiny(digits, "recording", recipe, left)
    assert outcome.resumed_at == [2] and len(outcome.history) == 4
    for record in outcome.history:
        own = record["mask_rate"], record["drift"], record["spread"]
        assert own == (37, 0.25, 0.5) and {type(value) for value in own} == {float}


def test_what_a_method_keeps_is_made_alike_on_all_ranks(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []

    def prepare(model: torch.nn.Module, recipe: FinetuneRecipe) -> None:
        drawn.append(torch.rand(3))

    def state(recipe: FinetuneRecipe, num_classes: int, device: torch.device) -> torch.nn.Module:
        return torch.nn.Linear(2, 3)

    add(replace(COUNTING, name="drawing", prepare=prepare, state=state), monkeypatch)
    recipe = tiny_recipe("drawing")

    def made(ranks_own: int, seed: int) -> torch.Tensor:
        model, streams = tiny_model(recipe), tiny_streams(digits, recipe, "drawing")
        torch.manual_seed(ranks_own)
        before = torch.get_rng_state()
        training = Training(
            recipe, "drawing", model, None, streams,
            Runtime(checkpoints(tmp_path), device="cpu"), class_shares=TEN_CLASSES, seed=seed,
        )  # fmt: skip
        assert torch.equal(torch.get_rng_state(), before)
        assert isinstance(training.state, torch.nn.Linear)
        return training.state.weight.detach()

    one, other, third = made(1, 0), made(2, 0), made(1, 7)
    assert torch.equal(one, other) and not torch.equal(one, third)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_method_prepares_the_model(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(replace(COUNTING, name="frozen", prepare=freeze), monkeypatch)
    recipe = tiny_recipe("frozen")
    before, model = tiny_model(recipe).state_dict(), tiny_model(recipe)
    run_tiny(digits, "frozen", recipe, checkpoints(tmp_path), model=model)
    changed = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == {"head.weight", "head.bias"}


def test_a_frozen_part_of_two_networks_stays_two(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a child starts from its parent's student and average, which differ in what is frozen, too
    add(replace(COUNTING, name="frozen", prepare=freeze), monkeypatch)
    recipe = tiny_recipe("frozen")
    model, before = tiny_model(recipe), tiny_model(recipe).state_dict()
    average = {name: weights + 1 for name, weights in before.items()}
    training = Training(
        recipe, "frozen", model, average, tiny_streams(digits, recipe, "frozen"),
        Runtime(checkpoints(tmp_path), device="cpu"), class_shares=TEN_CLASSES, seed=0,
    )  # fmt: skip
    student, teacher = (
        training.networks.student.state_dict(),
        training.networks.teacher.network.state_dict(),
    )
    assert all(torch.equal(student[name], before[name]) for name in before)
    assert all(torch.equal(teacher[name], average[name]) for name in before)
    train(training)
    assert torch.equal(student["blocks.0.attn.qkv.weight"], before["blocks.0.attn.qkv.weight"])
    for name in before:  # 8 steps with d = 0.8 towards what does not move
        if not name.startswith("head."):
            torch.testing.assert_close(teacher[name], before[name] + 0.8**8)


def test_what_a_method_puts_in_eval_mode_stays_so(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(model: torch.nn.Module, recipe: FinetuneRecipe) -> None:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d | DropPath):
                module.eval()

    add(replace(COUNTING, name="still", prepare=prepare), monkeypatch)
    recipe = tiny_recipe("still", img_size=32, head_std=None, drop_path=0.9)
    model = create_model("test_resnet", 10, recipe, {}, False, 0)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    training = Training(
        recipe, "still", model, None, tiny_streams(digits, recipe, "still"),
        Runtime(checkpoints(tmp_path), device="cpu"), class_shares=TEN_CLASSES, seed=0,
    )  # fmt: skip
    assert training.networks.channels_last and not training.networks.batch_norm
    assert training.networks.drop_paths.modules and not any(
        m.training for m in training.networks.drop_paths.modules
    )
    train(training)
    still = {n for n, weights in model.state_dict().items() if torch.equal(weights, before[n])}
    statistics = {n for n, _ in model.named_buffers()}
    assert statistics and statistics <= still
    assert model.training and not still & {"fc.weight", "fc.bias"}  # the rest learns as ever


@pytest.mark.parametrize("answers", ["student", "ema"])
def test_the_network_that_a_method_names_answers(
    answers: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(replace(COUNTING, name="asking", teacher=lambda recipe: answers), monkeypatch)
    recipe = tiny_recipe("asking", drop_path=0.5)
    model = tiny_model(recipe)
    other = {name: weights + 1 for name, weights in model.state_dict().items()}
    training = Training(
        recipe, "asking", model, other, tiny_streams(digits, recipe, "asking"),
        Runtime(checkpoints(tmp_path), device="cpu"), class_shares=TEN_CLASSES, seed=0,
    )  # fmt: skip
    images = torch.randn(3, 3, 16, 16)
    found = training.teach(images)
    network = (
        training.networks.student if answers == "student" else training.networks.teacher.network
    )
    assert training.networks.student.training and not found.requires_grad
    with torch.no_grad():  # in eval mode: no drop path
        torch.testing.assert_close(found, network.eval()(images))


def test_the_documents_method_by_hand(tmp_path: Path) -> None:
    from_document(tmp_path)
    with on_path(tmp_path):
        method = find_method("mean-teacher")
        assert isinstance(method, Stepped)
        recipe = method.recipe(label_smoothing=0.2, consistency_weight=3)
        weak, strong = torch.randn(2, 4, 3, 2, 2)
        views = Views({"weak": weak[:2]}), Views({"weak": weak, "strong": strong})
        step = StepInput(views[0], torch.tensor([1, 0]), views[1])
        shard = RankShard(lambda rows, wanted: rows[wanted[0]], 0, 1)
        answers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
        context: Any = StepContext(recipe, 2, shard, lambda images: answers)
        labeled, pool = method.step_targets(step, context).rows
        assert torch.equal(labeled.images, weak[:2]) and torch.equal(pool.images, strong)
        torch.testing.assert_close(labeled.targets, torch.tensor([[0.1, 0.9], [0.9, 0.1]]))
        torch.testing.assert_close(pool.targets, answers.softmax(dim=1))
        assert (labeled.weights.tolist(), pool.weights.tolist()) == ([0.5] * 2, [0.25] * 4)
        assert (labeled.numbers.tolist(), pool.numbers.tolist()) == ([0, 1], [2, 3, 4, 5])
        assert (labeled.factor, pool.factor) == (1, 3)


def test_the_documents_method_trains(digits: Dataset, tmp_path: Path) -> None:
    from_document(tmp_path)
    with on_path(tmp_path):
        recipe = tiny_recipe("mean-teacher")
        outcome = run_tiny(digits, "mean-teacher", recipe, checkpoints(tmp_path / "checkpoints"))
        assert outcome.status == "finished" and outcome.step == 8
        for record in outcome.history:
            parts = record["labeled_loss"] + record["consistency_loss"]
            assert record["loss"] == pytest.approx(parts, rel=1e-6)
