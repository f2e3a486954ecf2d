"""A training of an adapter and a head: what it keeps, averages, resumes and leaves."""

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.tiny import (
    LABELED_IMAGES,
    TEN_CLASSES,
    Died,
    die_in_step,
    run_tiny,
    tiny_beit,
    tiny_model,
    tiny_recipe,
    tiny_streams,
)

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution.checkpoint import Checkpoints, decode_weights
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.rehearsal import rehearse, rehearsed
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.adapter import BypassedError
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.data import view_settings

LORA = {"kind": "lora", "rank": 4, "dropout": 0.1}
# dropout draws for each worker and micro-batch
SURE = {"kind": "lora", "rank": 4}
EVERY_STEP = TrainOptions(checkpoint_seconds=0)


def at(folder: Path) -> Checkpoints:
    return Checkpoints(open_storage(folder))


def training_of(
    digits: Dataset,
    folder: Path,
    recipe: SteppedRecipe,
    method: str = "semi",
    model: torch.nn.Module | None = None,
    options: TrainOptions = EVERY_STEP,
) -> Training:
    return Training(
        recipe,
        method,
        tiny_model(recipe) if model is None else model,
        None,
        tiny_streams(digits, recipe, method),
        Runtime(at(folder), device="cpu"),
        class_shares=TEN_CLASSES,
        seed=0,
        options=options,
    )


@pytest.mark.parametrize("step", [1, 4, 11])
def test_a_training_that_dies_goes_on_bit_for_bit(
    digits: Dataset, tmp_path: Path, step: int
) -> None:
    recipe = tiny_recipe("semi", steps=12, adapter=LORA)
    whole, parts = at(tmp_path / "whole"), at(tmp_path / "parts")
    uninterrupted = run_tiny(digits, "semi", recipe, whole)
    with pytest.raises(Died):
        run_tiny(digits, "semi", recipe, parts, on_step=die_in_step(step + 1), options=EVERY_STEP)
    torch.seed()
    resumed = run_tiny(digits, "semi", recipe, parts)
    assert resumed.resumed_at == [step]
    assert replace(uninterrupted, seconds=0) == replace(resumed, seconds=0)
    assert whole.best_weights() == parts.best_weights()
    first, second = whole.load(), parts.load()
    assert first is not None and second is not None
    for network in ("student", "ema"):
        assert first[network].keys() == second[network].keys()
        assert all(torch.equal(each, second[network][n]) for n, each in first[network].items())


def test_checkpoints_hold_no_frozen_weights(digits: Dataset, tmp_path: Path) -> None:
    # 12 blocks of width 192: 5.5 million parameters, of which some 80,000 learn
    recipe = tiny_recipe("finetune", steps=1, warmup_steps=0, adapter=LORA, global_pool="token")
    args = {"img_size": 16, "patch_size": 4}
    model = create_model("vit_tiny_patch16_224", 10, recipe, args, False, 0)
    training = training_of(digits, tmp_path, recipe, "finetune", model)
    train(training)
    state = training.runtime.checkpoints.load()
    assert state is not None
    adapters = {
        f"blocks.{block}.attn.qkv.lora_{part}.default.weight": shape
        for block in range(12)
        for part, shape in (("A", (4, 192)), ("B", (576, 4)))
    }
    expected = {**adapters, "head.weight": (10, 192), "head.bias": (10,)}
    learn = sum(torch.Size(shape).numel() for shape in expected.values())
    for network in (state["student"], state["ema"], decode_weights(best(training))["ema"]):
        assert {name: tuple(each.shape) for name, each in network.items()} == expected
    # float32 of two networks, AdamW's two moments, and names
    size = len(open_storage(tmp_path).read("latest.pt"))
    assert 4 * 4 * learn < size < 4 * 4 * learn + 120_000
    assert len(best(training)) < 2 * 4 * learn + 20_000


def best(training: Training) -> bytes:
    return training.runtime.checkpoints.best_weights()


def test_the_weights_that_are_left_are_plain_and_as_good_as_evaluated(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("semi", adapter=LORA)
    training = training_of(digits, tmp_path, recipe)
    outcome = train(training)
    states = decode_weights(training.best_weights())
    plain = tiny_model(recipe)
    assert states["student"].keys() == states["ema"].keys() == plain.state_dict().keys()
    plain.load_state_dict(states[outcome.best_weights])
    streams = tiny_streams(digits, recipe, "semi")
    again = evaluate(plain, streams.validation, streams.views, Runtime(at(tmp_path), device="cpu"))
    metrics = again.metrics(TEN_CLASSES)
    assert metrics["ce"] == pytest.approx(outcome.best_metrics["ce"], abs=1e-5)
    # adapted layers and head differ between the networks and from the start, all else does not
    start = tiny_model(recipe).state_dict()
    moved = {n for n, each in start.items() if not torch.equal(each, states["student"][n])}
    assert moved == {n for n, e in states["ema"].items() if not torch.equal(e, start[n])}
    qkv = {f"blocks.{block}.attn.qkv.weight" for block in (0, 1)}
    assert moved == {*qkv, "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_the_teacher_averages_what_learns_and_shares_the_rest(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("semi", adapter=LORA, ema_decay=0.8)
    training = training_of(digits, tmp_path, recipe)
    expected = {
        n: each.detach().clone() for n, each in training.networks.student.named_parameters()
    }
    for fed in training.feed.steps(0, 3):
        training.step(fed)
        for name, each in training.networks.student.named_parameters():
            expected[name] = 0.8 * expected[name] + 0.2 * each.detach()
    teacher = dict(training.networks.teacher.network.named_parameters())
    for name, each in training.networks.student.named_parameters():
        torch.testing.assert_close(teacher[name].detach(), expected[name])
        assert (teacher[name] is each) == (not each.requires_grad)
    assert not any(each.requires_grad for each in teacher.values())
    assert not any(module.training for module in training.networks.teacher.network.modules())


def losses(training: Training) -> list[float]:
    return [record["loss"] for record in train(training).history]


def test_micro_batches_change_no_loss(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny_recipe("semi", adapter=SURE, drop_path=0.3)
    whole = losses(training_of(digits, tmp_path / "whole", recipe))
    split = TrainOptions(micro_batch=3)
    parts = losses(training_of(digits, tmp_path / "parts", recipe, options=split))
    assert parts == pytest.approx(whole, abs=1e-5)


def test_a_compiled_training_has_the_same_losses(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the graphs are what is tested; Inductor takes half a minute
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recipe = tiny_recipe("finetune", steps=2, warmup_steps=0, evaluations=1, adapter=SURE)
    eager = losses(training_of(digits, tmp_path / "eager", recipe, "finetune"))
    options = TrainOptions(compile=True)
    compiled = training_of(digits, tmp_path / "compiled", recipe, "finetune", options=options)
    assert losses(compiled) == pytest.approx(eager, abs=1e-5)


def net(adapter: dict[str, Any]) -> tuple[SteppedRecipe, torch.nn.Module]:
    settings = {"steps": 3, "batch_size": 8, "img_size": 32, "evaluations": 3, "adapter": adapter}
    recipe = resolve(published("finetune", "resnet18", settings), "finetune", LABELED_IMAGES, 0)
    return recipe, create_model("test_resnet", 10, recipe, {}, False, 0)


@pytest.mark.parametrize("adapter", [None, SURE])
def test_a_checkpoint_that_lacks_a_tensor_is_no_checkpoint(
    digits: Dataset, tmp_path: Path, adapter: dict[str, Any] | None
) -> None:
    networks = training_of(digits, tmp_path, tiny_recipe("semi", adapter=adapter)).networks
    states = networks.states()
    networks.load(states)
    for network in ("student", "ema"):
        names = [name for name in states[network] if name.startswith(("head.", "blocks.1.attn"))]
        assert len(names) > 2
        for name in names:
            less = {n: each for n, each in states[network].items() if n != name}
            with pytest.raises(RuntimeError, match=f'Missing key.*"{name}"'):
                networks.load(states | {network: less})


def test_a_frozen_convolutional_network_keeps_its_statistics_and_can_be_split(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe, model = net({"kind": "lora", "targets": ["conv2"]})
    before = {name: each.clone() for name, each in model.named_buffers()}
    training = training_of(digits, tmp_path / "whole", recipe, "finetune", model)
    whole = losses(training)
    assert len(set(whole)) == 3  # it learns
    for network in (training.networks.student, training.networks.teacher.network):
        assert all(torch.equal(each, before[name]) for name, each in network.named_buffers())
    weight: Any = training.networks.student.get_submodule("layer1.0.conv2.base_layer").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    recipe, model = net({"kind": "lora", "targets": ["conv2"]})
    split = TrainOptions(micro_batch=3)
    parts = training_of(digits, tmp_path / "parts", recipe, "finetune", model, split)
    assert losses(parts) == pytest.approx(whole, abs=1e-5)


def test_the_head_alone_is_trained_where_nothing_is_adapted(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe, model = net({"kind": "lora", "targets": []})
    start = copy.deepcopy(model.state_dict())
    training = training_of(digits, tmp_path, recipe, "finetune", model)
    train(training)
    left = decode_weights(training.best_weights())["student"]
    assert {n for n, e in left.items() if not torch.equal(e, start[n])} == {"fc.weight", "fc.bias"}


def test_layers_that_are_bypassed_end_a_training_and_its_rehearsal(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("finetune", adapter=SURE)
    expected = r"adapter of blocks.0.attn.qkv would learn nothing \(2 such layers\): the backbone"
    training = training_of(digits, tmp_path, recipe, "finetune", tiny_beit(recipe))
    with pytest.raises(BypassedError, match=expected):
        train(training)
    assert training.outcome.step == 0  # not at the end of what is paid for
    views = view_settings(recipe, ((0.5,) * 3, (0.5,) * 3))
    few = rehearsed(recipe, "finetune", 1)
    with pytest.raises(BypassedError, match=expected):
        rehearse(tiny_beit(few), few, "finetune", views, 10, False)


def test_what_a_bypassing_backbone_does_not_bypass_is_trained(
    digits: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe("finetune", adapter=SURE | {"targets": ["proj", "fc1", "fc2"]})
    train(training_of(digits, tmp_path, recipe, "finetune", tiny_beit(recipe)))
