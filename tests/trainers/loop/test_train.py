import math
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.tiny import (
    LABELED_IMAGES,
    POOL_IMAGES,
    TEN_CLASSES,
    VAL_IMAGES,
    Died,
    SimulatedRank,
    Unkept,
    counted,
    die_in_step,
    first_rows,
    on_ranks,
    run_tiny,
    tiny_model,
    tiny_recipe,
    tiny_streams,
    training_batches,
)

from semigrid.data.batches import EvalBatches
from semigrid.data.order import StreamOrder
from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution import timer
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import LATEST_CHECKPOINT
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.stepper import OutOfMemoryError
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.methods.pseudo_labels import pool_unused
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(open_storage(tmp_path / "training"))


def saved(checkpoints: Checkpoints) -> dict[str, Any]:
    state = checkpoints.load()
    assert state is not None
    return state


def assert_same_end(a: Checkpoints, b: Checkpoints, ends: tuple[Outcome, Outcome]) -> None:
    """Student, teacher, optimiser, best weights and history, bit for bit."""
    first, second = saved(a), saved(b)
    for part in ("student", "ema"):
        assert first[part].keys() == second[part].keys()
        for name, weights in first[part].items():
            assert torch.equal(weights, second[part][name]), f"{part} {name}"
    for index, moments in first["optimizer"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, second["optimizer"]["state"][index][name]), name
    assert replace(ends[0], seconds=0) == replace(ends[1], seconds=0)
    assert a.best_weights() == b.best_weights()


def perturb_random_generators() -> None:
    # a process that goes on has drawn other random numbers than the one that was stopped
    random.seed(), np.random.seed(), torch.seed()


EVERY_STEP = TrainOptions(checkpoint_seconds=0)


def die(
    digits: Dataset, method: str, recipe: SteppedRecipe, checkpoints: Checkpoints, step: int
) -> None:
    """Trains until the last checkpoint is of this step."""
    with pytest.raises(Died):
        on_step = die_in_step(step + 1)
        run_tiny(digits, method, recipe, checkpoints, on_step=on_step, options=EVERY_STEP)
    assert saved(checkpoints)["outcome"]["step"] == step


@pytest.mark.parametrize("step", range(1, 12))
def test_semi_that_dies_in_any_step_and_goes_on_is_the_uninterrupted_run(
    digits: Dataset, tmp_path: Path, step: int
) -> None:
    recipe = tiny_recipe("semi", steps=12)
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "semi", recipe, whole)
    die(digits, "semi", recipe, parts, step)
    perturb_random_generators()
    resumed = run_tiny(digits, "semi", recipe, parts)
    assert (resumed.step, resumed.status, resumed.resumed_at) == (12, "finished", [step])
    assert_same_end(whole, parts, (uninterrupted, resumed))


def test_semi_that_dies_in_every_step_is_the_uninterrupted_run(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("semi", steps=12)
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "semi", recipe, whole)
    for step in range(1, 12):
        die(digits, "semi", recipe, parts, step)
        perturb_random_generators()
    assert_same_end(whole, parts, (uninterrupted, run_tiny(digits, "semi", recipe, parts)))


def test_finetune_that_dies_and_goes_on_is_the_uninterrupted_run(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("finetune")
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "finetune", recipe, whole)
    die(digits, "finetune", recipe, parts, 5)
    perturb_random_generators()
    resumed = run_tiny(digits, "finetune", recipe, parts)
    assert_same_end(whole, parts, (uninterrupted, resumed))


def test_a_killed_run_goes_on_from_its_last_checkpoint(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("semi", evaluations=2)
    whole, parts = (Checkpoints(open_storage(tmp_path / name)) for name in ("whole", "parts"))
    uninterrupted = run_tiny(digits, "semi", recipe, whole)
    with pytest.raises(Died):
        run_tiny(digits, "semi", recipe, parts, on_step=die_in_step(7))
    assert saved(parts)["outcome"]["step"] == 4  # that of an evaluation
    perturb_random_generators()
    resumed = run_tiny(digits, "semi", recipe, parts)
    assert_same_end(whole, parts, (uninterrupted, resumed))


def test_checkpoints_come_at_evaluations_and_so_many_seconds_later(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    saved_after: list[int] = []

    class Noted(Checkpoints):
        def save(self, state: dict[str, Any], is_best: bool = False) -> None:
            saved_after.append(state["outcome"]["step"])
            super().save(state, is_best)

    def second(step: int) -> None:
        nonlocal now
        now = float(step)

    monkeypatch.setattr(timer, "time", SimpleNamespace(monotonic=lambda: now))
    recipe = tiny_recipe("finetune", steps=12, evaluations=3)
    noted, options = Noted(open_storage(tmp_path)), TrainOptions(checkpoint_seconds=3)
    run_tiny(digits, "finetune", recipe, noted, on_step=second, options=options)
    assert saved_after == [3, 4, 7, 8, 11, 12]


def prepared(
    digits: Dataset,
    checkpoints: Checkpoints,
    model: torch.nn.Module | None = None,
    micro_batch: int | None = None,
    precision: str = "fp32",
    **settings: Any,
) -> Training:
    recipe = tiny_recipe("semi", **settings)
    streams = tiny_streams(digits, recipe, "semi")
    runtime = Runtime(checkpoints, device="cpu")
    model = tiny_model(recipe) if model is None else model
    options = TrainOptions(micro_batch=micro_batch)
    return Training(
        recipe, "semi", model, None, streams, runtime,
        class_shares=TEN_CLASSES, seed=0, precision=precision, options=options,
    )  # fmt: skip


def test_the_teacher_never_answers_with_what_it_was(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    # LeViT and others keep biases that they derive from their weights while they are in eval mode
    recipe = tiny_recipe("semi", img_size=224, drop_path=0, global_pool=None, head_std=None)
    model = create_model("levit_128s", 10, recipe, {}, False, 0)
    training = prepared(digits, checkpoints, model, img_size=224, drop_path=0)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    before = training.teach(images)
    with torch.no_grad():
        for name, parameter in training.networks.teacher.network.named_parameters():
            if "attention_biases" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    fresh = create_model("levit_128s", 10, recipe, {}, False, 0).eval()
    fresh.load_state_dict(training.networks.teacher.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(training.teach(images), fresh(images))
    assert not torch.allclose(training.teach(images), before)


def test_the_teacher_sees_no_more_at_once_than_the_student(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    training = prepared(digits, checkpoints, micro_batch=3)
    seen: list[int] = []
    limit = 100

    # one pass over eight images at a time is what memory holds, then one, then none
    def count(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        seen.append(len(args[0]))
        if len(args[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    training.networks.teacher.network.register_forward_pre_hook(count)
    whole = training.teach(torch.ones(8, 3, 16, 16))
    assert seen == [3, 3, 2]
    limit = 1
    seen.clear()
    assert torch.allclose(training.teach(torch.ones(8, 3, 16, 16)), whole, atol=1e-5)
    assert seen == [3, 2, *[1] * 8]  # halved until it fits, and kept
    limit = 0
    with pytest.raises(OutOfMemoryError, match="too small for one image"):
        training.teach(torch.ones(8, 3, 16, 16))


def test_the_teacher_forgets_how_few_images_it_was_asked_for(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    training = prepared(digits, checkpoints)
    seen: list[int] = []
    limit = 100

    def count(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        seen.append(len(args[0]))
        if len(args[0]) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    training.networks.teacher.network.register_forward_pre_hook(count)
    for images in (4, 0, 40):
        assert training.teach(torch.ones(images, 3, 16, 16)).shape == (images, 10)
    assert seen == [4, 0, 40]
    limit = 10
    seen.clear()
    for images in (40, 3, 40):
        training.teach(torch.ones(images, 3, 16, 16))
    assert seen == [40, 20, *[10] * 4, 3, *[10] * 4]  # what memory holds is remembered


def test_a_group_that_starts_again_knows_what_fits(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    checkpoints.save_micro_batch(5)
    assert prepared(digits, checkpoints).stepper.micro_batch == 5
    assert prepared(digits, checkpoints, micro_batch=3).stepper.micro_batch == 3
    assert prepared(digits, checkpoints, micro_batch=9).stepper.micro_batch == 5


def test_the_scaler_of_half_precision_goes_on_where_it_was(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    training = prepared(digits, checkpoints, precision="fp16")
    training.scaler.scale(torch.ones(1))  # it is made on first use
    training.scaler.update(1234.0)
    training.save_checkpoint()
    again = prepared(digits, checkpoints, precision="fp16")
    assert again.scaler.state_dict()["scale"] == 1234.0


@pytest.mark.parametrize(
    ("backbone", "skip_masked", "expected"),
    [("vit", None, True), ("resnet", None, False), ("vit", False, False), ("resnet", True, True)],
)
def test_masked_images_are_left_out_where_that_is_exact_or_asked_for(
    digits: Dataset,
    checkpoints: Checkpoints,
    backbone: str,
    skip_masked: bool | None,
    expected: bool,
) -> None:
    model = None
    if backbone == "resnet":
        recipe = resolve(published("finetune", "resnet18", {"steps": 8}), "finetune", 9, 0)
        model = create_model("test_resnet", 10, recipe, {}, False, 0)
    # none is confident enough to count
    settings = {"skip_masked": skip_masked, "confidence_threshold": 1, "img_size": 16}
    training = prepared(digits, checkpoints, model, **settings)
    rows: list[int] = []
    learn = training.stepper.learn

    def seen(targets: Any) -> Any:
        rows.append(len(targets.rows[1]))
        return learn(targets)

    training.stepper.learn = seen  # type: ignore[method-assign]
    [fed] = training.feed.steps(0, 1)
    training.step(fed)
    assert rows == [0 if expected else 8]


def test_a_finished_run_is_not_trained_again(digits: Dataset, checkpoints: Checkpoints) -> None:
    recipe = tiny_recipe("finetune")
    finished = run_tiny(digits, "finetune", recipe, checkpoints)
    content = checkpoints.storage.read(LATEST_CHECKPOINT)

    def refuse(*steps: int) -> Any:
        raise AssertionError("no batch is needed")
        yield

    streams = replace(tiny_streams(digits, recipe, "finetune"), labeled=refuse)
    runtime = Runtime(checkpoints, device="cpu")
    model = tiny_model(recipe)
    again = train(
        Training(
            recipe, "finetune", model, None, streams, runtime, class_shares=TEN_CLASSES, seed=0
        )
    )
    assert again == finished
    assert checkpoints.storage.read(LATEST_CHECKPOINT) == content


@pytest.mark.parametrize("method", ["finetune", "semi"])
def test_a_training_learns(digits: Dataset, checkpoints: Checkpoints, method: str) -> None:
    gentle = {"mixup": 0, "cutmix": 0, "rand_augment": "", "erase_prob": 0, "color_jitter": 0}
    gentle |= {"hflip": 0, "crop_scale": (0.8, 1.0)}
    if method == "semi":
        gentle |= {"weak_crop_scale": (0.8, 1.0), "unlabeled_ratio": 1, "unlabeled_loss_weight": 1}
    recipe = tiny_recipe(
        method,
        steps=60,
        batch_size=16,
        base_lr=0.1,
        beta2=0.95,
        layer_decay=1,
        evaluations=2,
        **gentle,
    )
    outcome = run_tiny(digits, method, recipe, checkpoints)
    assert outcome.best_metrics["acc1"] >= 30  # guessing has 10


def test_a_seed_is_a_training(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("finetune", evaluations=1)

    def loss(seed: int, name: str) -> float:
        runtime = Runtime(Checkpoints(open_storage(tmp_path / name)), device="cpu")
        streams = tiny_streams(digits, recipe, "finetune", seed)
        model = tiny_model(recipe)
        outcome = train(
            Training(
                recipe,
                "finetune",
                model,
                None,
                streams,
                runtime,
                class_shares=TEN_CLASSES,
                seed=seed,
            )
        )
        return outcome.history[0]["loss"]

    first = loss(0, "first")
    perturb_random_generators()
    assert loss(0, "second") == first
    assert loss(1, "third") != first


def test_the_teacher_of_a_constant_student_in_closed_form(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    # t ← d·t + (1 − d)·s from t = 0 gives (1 − dⁿ)·s after n steps
    recipe = tiny_recipe("semi", base_lr=1e-30, min_lr=0, weight_decay=0, ema_decay=0.8)
    model = tiny_model(recipe)
    student = {name: weights.clone() for name, weights in model.state_dict().items()}
    zero = {name: torch.zeros_like(weights) for name, weights in student.items()}
    run_tiny(digits, "semi", recipe, checkpoints, model=model, teacher_state=zero)
    for name, teacher in saved(checkpoints)["ema"].items():
        torch.testing.assert_close(teacher, (1 - 0.8**8) * student[name])


def test_the_teacher_copies_buffers(digits: Dataset, checkpoints: Checkpoints) -> None:
    small = {"steps": 3, "batch_size": 8, "img_size": 32, "ema_decay": 0.9}
    recipe = resolve(published("finetune", "resnet18", small), "finetune", 40, 0)
    model = create_model("test_resnet", 10, recipe, {}, False, 0)
    run_tiny(digits, "finetune", recipe, checkpoints, model=model)
    state = saved(checkpoints)
    buffers = [name for name, _ in model.named_buffers()]
    assert any("running_mean" in name for name in buffers)
    for name in buffers:
        assert torch.equal(state["ema"][name], state["student"][name]), name
    parameters = [name for name, _ in model.named_parameters()]
    assert not all(torch.equal(state["ema"][n], state["student"][n]) for n in parameters)


def test_the_schedule_is_followed(digits: Dataset, checkpoints: Checkpoints) -> None:
    # the first step of a warm-up has a rate of 0: nothing moves
    recipe = tiny_recipe("finetune")
    before = tiny_model(recipe).state_dict()
    die(digits, "finetune", recipe, checkpoints, 1)
    assert all(torch.equal(saved(checkpoints)["student"][name], before[name]) for name in before)
    die(digits, "finetune", recipe, checkpoints, 2)
    assert not torch.equal(saved(checkpoints)["student"]["head.weight"], before["head.weight"])


@pytest.mark.parametrize("method", ["finetune", "semi"])
def test_a_loss_that_is_not_finite_is_a_divergence(
    digits: Dataset, checkpoints: Checkpoints, method: str
) -> None:
    recipe = tiny_recipe(method, base_lr=1e20, warmup_steps=0, evaluations=1)
    outcome = run_tiny(digits, method, recipe, checkpoints)
    assert outcome.status == "diverged" and "lower base_lr (it is 1e+20)" in str(outcome.error)


@pytest.mark.parametrize("method", ["finetune", "semi"])
def test_weights_that_are_not_finite_are_a_divergence(
    digits: Dataset, checkpoints: Checkpoints, method: str
) -> None:
    # the first loss is finite, the weights after it are not: val is evaluated on them
    recipe = tiny_recipe(method, base_lr=1e20, warmup_steps=0, evaluations=8)
    assert run_tiny(digits, method, recipe, checkpoints).status == "diverged"


def val_metrics(model: torch.nn.Module, streams: Streams, checkpoints: Checkpoints) -> Any:
    runtime = Runtime(checkpoints, device="cpu")
    return evaluate(model, streams.validation, streams.views, runtime).metrics(TEN_CLASSES)


@pytest.mark.parametrize("better", ["student", "ema"])
def test_the_best_weights_are_the_better_of_student_and_teacher(
    digits: Dataset, checkpoints: Checkpoints, better: str
) -> None:
    # both stay as they are: the rate is too small to move the student, the decay the teacher
    still = {"base_lr": 1e-30, "min_lr": 0, "weight_decay": 0, "ema_decay": 1 - 1e-9}
    recipe = tiny_recipe("finetune", **still)
    streams = tiny_streams(digits, recipe, "finetune")
    models = [tiny_model(recipe, seed) for seed in range(2)]
    models.sort(key=lambda model: val_metrics(model, streams, checkpoints)["acc1"])
    worse, good = models
    expected = val_metrics(good, streams, checkpoints)
    assert expected["acc1"] > val_metrics(worse, streams, checkpoints)["acc1"]
    student, teacher = (good, worse) if better == "student" else (worse, good)
    outcome = run_tiny(
        digits,
        "finetune",
        recipe,
        checkpoints,
        model=student,
        teacher_state=teacher.state_dict(),
    )
    assert outcome.best_weights == better
    assert outcome.best_metrics == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "better"), [("balanced", "student"), ("natural", "ema")])
def test_the_metric_of_the_search_chooses_the_weights(
    digits: Dataset, checkpoints: Checkpoints, metric: Any, better: str
) -> None:
    # neither moves; the teacher is better where one class is nearly all that there is
    still = {"base_lr": 1e-30, "min_lr": 0, "weight_decay": 0, "ema_decay": 1 - 1e-9}
    recipe = tiny_recipe("finetune", **still)
    streams = tiny_streams(digits, recipe, "finetune")
    models = [tiny_model(recipe, seed) for seed in range(8)]
    student = max(models, key=lambda model: val_metrics(model, streams, checkpoints)["acc1"])
    teacher = {name: each.clone() for name, each in student.state_dict().items()}
    teacher["head.weight"].zero_()
    labels = np.asarray(streams.validation.table.labels)
    common = int(np.bincount(labels).argmax())
    teacher["head.bias"].copy_(torch.eye(10)[common])  # takes every image for one of this class
    shares = np.full(10, 0.01)
    shares[common] = 0.91
    runtime = Runtime(checkpoints, device="cpu")
    how: Any = {"seed": 0, "class_shares": shares, "metric": metric}
    outcome = train(Training(recipe, "finetune", student, teacher, streams, runtime, **how))
    assert outcome.best_weights == better
    found = outcome.history[0]
    assert found["ema_acc1"] == pytest.approx(100 / len(set(labels.tolist())))
    assert found["ema_acc1_natural"] > 90
    suffix = "" if metric == "balanced" else "_natural"
    gap = found[f"ema_acc1{suffix}"] - found[f"student_acc1{suffix}"]
    assert found["teacher_gap"] == pytest.approx(gap)


@pytest.mark.parametrize("method", ["finetune", "semi"])
@pytest.mark.parametrize("base_lr", [0.05, 1.0])  # the higher, the less is the last the best
def test_the_best_evaluation_is_kept_and_its_weights_repeat_it(
    digits: Dataset, checkpoints: Checkpoints, method: str, base_lr: float
) -> None:
    recipe = tiny_recipe(method, evaluations=8, base_lr=base_lr)
    outcome = run_tiny(digits, method, recipe, checkpoints)
    found = [
        (record[f"{name}_acc1"], -record[f"{name}_ce"], record["step"], name)
        for record in outcome.history
        for name in ("student", "ema")
    ]
    acc1, minus_ce, step, name = max(found)
    assert (outcome.best_metrics["acc1"], outcome.best_metrics["ce"]) == (acc1, -minus_ce)
    assert (outcome.best_step, outcome.best_weights) == (step, name)

    model = tiny_model(recipe, seed=9)
    model.load_state_dict(decode_weights(checkpoints.best_weights())[name])
    streams = tiny_streams(digits, recipe, method)
    assert val_metrics(model, streams, checkpoints) == outcome.best_metrics
    # only what the latest checkpoint and the one before it name is left
    states = [torch.load(checkpoints.storage.location(n)) for n in ("latest.pt", "previous.pt")]
    best = {state["best"] for state in states}
    assert states[0]["outcome"]["best_step"] == step
    assert set(checkpoints.storage.names("")) == {"latest.pt", "previous.pt", *best}


def test_a_worker_alone_fetches_from_its_own_batch(checkpoints: Checkpoints) -> None:
    runtime = Runtime(checkpoints, device="cpu")
    rows = torch.tensor([[10.0], [20.0], [30.0]])
    fetched = runtime.fetch(rows, [torch.tensor([2, 0])])
    assert fetched.tolist() == [[30.0], [10.0]]
    assert runtime.gather("value") == ["value"]


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [
        (10, 1, {10}),
        (10, 2, {5, 10}),
        (10, 3, {3, 7, 10}),
        (10, 10, set(range(1, 11))),
        (3, 10, {1, 2, 3}),  # never more than steps
        (1, 10, {1}),
    ],
)
def test_evaluation_steps(steps: int, evaluations: int, expected: set[int]) -> None:
    assert set(SteppedRecipe(steps=steps, evaluations=evaluations).evaluation_steps) == expected


@given(steps=st.integers(1, 500), evaluations=st.integers(1, 60))
def test_evaluations_are_as_many_as_asked_and_the_last_is_at_the_end(
    steps: int, evaluations: int
) -> None:
    found = SteppedRecipe(steps=steps, evaluations=evaluations).evaluation_steps
    assert len(found) == min(steps, evaluations)
    assert found[0] >= 1 and found[-1] == steps
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1


def test_a_training_decodes_val_once_even_if_memory_is_too_small_for_it(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("finetune")
    table, taken = counted(first_rows(digits, "val", VAL_IMAGES))
    streams = tiny_streams(digits, recipe, "finetune")
    on_disk = replace(streams, validation=Unkept(table, streams.views, 16))
    histories = []
    for name, of in {"memory": streams, "disk": on_disk}.items():
        checkpoints = Checkpoints(open_storage(tmp_path / name))
        histories.append(run_tiny(digits, "finetune", recipe, checkpoints, streams=of).history)
    assert histories[0] == histories[1] and len(histories[0]) == 4
    assert taken == list(range(VAL_IMAGES))


def test_each_evaluation_is_reported_once(digits: Dataset, checkpoints: Checkpoints) -> None:
    recipe = tiny_recipe("semi", evaluations=3)
    reports: list[dict[str, Any]] = []
    runtime = Runtime(checkpoints, reports.append, device="cpu")
    streams = tiny_streams(digits, recipe, "semi")
    outcome = train(
        Training(
            recipe,
            "semi",
            tiny_model(recipe),
            None,
            streams,
            runtime,
            class_shares=TEN_CLASSES,
            seed=0,
        )
    )
    evaluated = [report for report in reports if "student_acc1" in report]
    assert [report["step"] for report in evaluated] == [3, 5, 8]
    assert evaluated == [
        speed | record | {"total_steps": 8}
        for speed, record in zip(outcome.speed, outcome.history, strict=True)
    ]
    # the health of a training at every evaluation
    health = {"loss", "labeled_loss", "unlabeled_loss", "mask_rate", "pseudo_entropy"}
    health |= {"pseudo_coverage", "teacher_gap"}
    for record in outcome.history:
        assert health <= record.keys()
        assert 0 <= record["mask_rate"] <= 1 and 0 <= record["pseudo_coverage"] <= 1
        assert 0 <= record["pseudo_entropy"] <= math.log(10) + 1e-9
        assert record["teacher_gap"] == record["ema_acc1"] - record["student_acc1"]
        assert ("pseudo_accuracy" in record) == (record["pseudo_coverage"] > 0)
    assert [reading["step"] for reading in outcome.speed] == [3, 5, 8]
    assert all(reading["images_per_s"] > 0 for reading in outcome.speed)


@pytest.mark.parametrize("method", ["finetune", "semi"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_train_and_evaluate_nearly_the_same(
    digits: Dataset, tmp_path: Path, method: str, precision: str
) -> None:
    # no threshold to fall on either side of, and few steps: rounding stays rounding
    settings = {"confidence_threshold": 0} if method == "semi" else {}
    recipe = tiny_recipe(method, steps=4, base_lr=0.005, **settings)

    evaluated: set[torch.dtype] = set()

    def record(module: torch.nn.Module, images: Any, logits: torch.Tensor) -> None:
        if not module.training:
            evaluated.add(logits.dtype)

    def values(precision: str) -> list[float]:
        evaluated.clear()
        model = tiny_model(recipe)
        model.register_forward_hook(record)  # the teacher is a copy of it
        outcome = train(
            Training(
                recipe,
                method,
                model,
                None,
                tiny_streams(digits, recipe, method),
                Runtime(Checkpoints(open_storage(tmp_path / precision)), device="cpu"),
                class_shares=TEN_CLASSES,
                seed=0,
                precision=precision,
            )
        )
        return [record[name] for name in ("loss", "ema_ce") for record in outcome.history]

    exact = values("fp32")
    assert evaluated == {torch.float32}
    lower = values(precision)
    assert evaluated == {getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[precision])}
    assert lower == pytest.approx(exact, rel=0.02)
    assert lower != exact  # it did compute in less


def test_a_compiled_training_has_the_same_losses(
    digits: Dataset, thorough: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not thorough:  # the graphs are PyTorch's either way; Inductor takes half a minute
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recipe = tiny_recipe("semi", steps=3, evaluations=3)

    def losses(compiled: bool) -> list[float]:
        outcome = train(
            Training(
                recipe,
                "semi",
                tiny_model(recipe),
                None,
                tiny_streams(digits, recipe, "semi"),
                Runtime(Checkpoints(open_storage(tmp_path / str(compiled))), device="cpu"),
                class_shares=TEN_CLASSES,
                seed=0,
                options=TrainOptions(compile=compiled),
            )
        )
        return [record["loss"] for record in outcome.history]

    assert losses(True) == pytest.approx(losses(False), abs=1e-4)


def collapsing(**settings: Any) -> SteppedRecipe:
    """λ_u absurd, τ = 0: the student learns what the teacher says, whatever it says."""
    absurd = {"unlabeled_loss_weight": 1000, "confidence_threshold": 0, "collapse_evaluations": 3}
    return tiny_recipe("semi", **{"steps": 40, "evaluations": 8, **absurd, **settings})


def test_a_collapsing_run_is_stopped_and_named(digits: Dataset, checkpoints: Checkpoints) -> None:
    outcome = run_tiny(digits, "semi", collapsing(), checkpoints)
    assert outcome.status == "collapsed" and "the teacher has collapsed" in str(outcome.error)
    assert "lower unlabeled_loss_weight or base_lr" in str(outcome.error)
    assert 15 <= outcome.step < 40  # three evaluations at least
    # what it came to is kept: for three evaluations next to all pseudo labels were of one class
    assert all(record["pseudo_entropy"] < 0.17 for record in outcome.history[-3:])
    ignored = collapsing(collapse_evaluations=0)
    assert run_tiny(digits, "semi", ignored, checkpoints).status == "finished"


def test_a_run_that_uses_no_pool_image_goes_on_and_still_learns_from_its_labels(
    digits: Dataset, checkpoints: Checkpoints
) -> None:
    recipe = tiny_recipe("semi", confidence_threshold=1, collapse_evaluations=2, steps=16)
    outcome = run_tiny(digits, "semi", recipe, checkpoints)
    assert (outcome.status, outcome.error, outcome.step) == ("finished", None, 16)
    assert pool_unused(outcome.history)
    assert all(record["unlabeled_loss"] == 0 for record in outcome.history)
    assert outcome.history[-1]["labeled_loss"] < outcome.history[0]["labeled_loss"]


def test_the_recorded_loss_is_the_mean_since_the_last_evaluation(
    digits: Dataset, tmp_path: Path
) -> None:
    every, second = (
        run_tiny(
            digits,
            "semi",
            tiny_recipe("semi", evaluations=n),
            Checkpoints(open_storage(tmp_path / f"{n}")),
        ).history
        for n in (8, 4)
    )
    for number, record in enumerate(second):
        pair = every[2 * number : 2 * number + 2]
        for name in ("loss", "labeled_loss", "unlabeled_loss", "mask_rate"):
            mean = sum(step[name] for step in pair) / 2
            assert record[name] == pytest.approx(mean, rel=1e-6), name


@pytest.mark.parametrize("world_size", [1, 2])
def test_all_ranks_record_the_same_and_each_broken_image(
    digits: Dataset, checkpoints: Checkpoints, world_size: int
) -> None:
    recipe = tiny_recipe("semi", steps=8, evaluations=1)  # one pass over the pool
    table = first_rows(digits, "pool", POOL_IMAGES)
    _, row = list(StreamOrder([POOL_IMAGES], seed=0).rows(0, 8))[-1]  # the last rank's first batch
    images = [b"no image" if i == row else image for i, image in enumerate(table.images)]
    broken = replace(table, images=images)

    def work(rank: SimulatedRank) -> Outcome:
        whole = tiny_streams(digits, recipe, "semi")
        views, where = whole.views, (0, rank.rank, rank.world_size)
        labeled = first_rows(digits, "train", LABELED_IMAGES)
        validation = first_rows(digits, "val", VAL_IMAGES)
        streams = Streams(
            training_batches(labeled, recipe.batch_size, views, ("strong",), *where),
            training_batches(broken, recipe.pool_batch_size, views, ("weak", "strong"), *where),
            EvalBatches(validation, views, 16, rank.rank, rank.world_size),
            views,
        )
        model = tiny_model(recipe)
        return train(
            Training(recipe, "semi", model, None, streams, rank, class_shares=TEN_CLASSES, seed=0)
        )

    outcomes = on_ranks(world_size, checkpoints, work)
    assert outcomes[0].broken == [table.ids[row]]  # rank 0's outcome is the trial's
    # what is recorded is of the global batch, not of a rank's own part
    assert all(outcome.history == outcomes[0].history for outcome in outcomes)
