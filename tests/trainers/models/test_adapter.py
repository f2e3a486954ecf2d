"""LoRA layers in timm models: what learns, what is merged, what is refused."""

from typing import Any

import pytest
import timm
import torch
from tests.helpers.tiny import VIT, tiny_model, tiny_recipe
from torch import nn

from semigrid.data.errors import InputError
from semigrid.trainers.loop.schedule import create_optimizer
from semigrid.trainers.methods import published
from semigrid.trainers.models.adapter import adapt, adapted_layers, learning, merged
from semigrid.trainers.recipe import Adapter

SEED = 3


def lora(**settings: Any) -> Adapter:
    return Adapter(kind="lora", **settings)


def tiny_vit() -> nn.Module:
    return tiny_model(tiny_recipe("finetune")).train()


def made_by_timm(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, num_classes=10).train()
    return model


def shake(model: nn.Module) -> None:
    """Moves everything that learns, as a training would: B of an adapter is 0 at first."""
    draw = torch.Generator().manual_seed(5)
    for each in model.parameters():
        if each.requires_grad:
            each.data += 0.05 * torch.randn(each.shape, generator=draw)


def test_adapter_and_head_learn_and_nothing_else() -> None:
    model = tiny_vit()
    adapt(model, lora(rank=4), SEED)
    sizes = {name: dict(model.named_parameters())[name].numel() for name in learning(model)}
    adapters = {name: size for name, size in sizes.items() if ".lora_" in name}
    # 2 blocks of width 32, whose qkv gives 96: rank · (in + out) each
    assert sum(adapters.values()) == 2 * 4 * (32 + 96)
    assert {name: size for name, size in sizes.items() if name not in adapters} == {
        # the norm before the head is new: its pooling is not that of the pretrained weights
        "fc_norm.weight": 32,
        "fc_norm.bias": 32,
        "head.weight": 320,
        "head.bias": 10,
    }


def test_without_targets_the_head_alone_learns() -> None:
    model = made_by_timm("test_resnet")
    adapt(model, lora(targets=[]), SEED)
    assert learning(model) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("test_vit", None),
        ("test_vit", ("qkv", "proj", "mlp.fc1")),  # attn.proj, and the convolution of patch_embed
        ("test_resnet", ("conv1", "conv2", "downsample.1")),  # 3×3, with strides, and 1×1
        ("test_efficientnet", ("conv_pw", "conv_pwl")),
        ("test_convnext", ("fc1", "fc2")),
    ],
)
def test_merged_weights_are_plain_ones_and_compute_the_same(
    name: str, targets: tuple[str, ...] | None
) -> None:
    model, plain = made_by_timm(name), made_by_timm(name).eval()
    before = {name: each.clone() for name, each in plain.state_dict().items()}
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(4, *size, generator=torch.Generator().manual_seed(1))
    adapt(model, lora(targets=targets, alpha=5), SEED)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), plain(images))  # B is 0 at first
        shake(model)
        unmerged = model(images)
        state = merged(model)
        assert {n: (e.shape, e.dtype) for n, e in state.items()} == {
            n: (e.shape, e.dtype) for n, e in before.items()
        }
        plain.load_state_dict(state)
        torch.testing.assert_close(plain(images), unmerged, atol=1e-5, rtol=1e-5)
    layer = adapted_layers(made_by_timm(name), lora(targets=targets))[0]
    changed = [n for n, e in before.items() if not torch.equal(e, state[n])]
    assert f"{layer}.weight" in changed
    assert f"{layer}.bias" not in changed
    # what is copied is apart from the model
    assert state[f"{layer}.weight"].data_ptr() not in {e.data_ptr() for e in model.parameters()}


def test_a_merged_weight_is_the_papers() -> None:
    # arXiv 2106.09685, eq. 3: W + (alpha / rank) B A
    model = tiny_vit()
    weight = model.get_submodule("blocks.1.attn.qkv").weight.detach().clone()  # type: ignore
    adapt(model, lora(rank=2, alpha=6), SEED)
    shake(model)
    layer: Any = model.get_submodule("blocks.1.attn.qkv")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert a.shape == (2, 32) and b.shape == (96, 2)
    torch.testing.assert_close(merged(model)["blocks.1.attn.qkv.weight"], weight + 3 * (b @ a))


def test_an_adapted_model_is_still_timms() -> None:
    model: Any = tiny_vit()
    adapt(model, lora(), SEED)
    assert type(model) is type(timm.create_model(VIT))
    assert model.get_classifier() is model.head and model.pretrained_cfg["classifier"] == "head"
    assert model.group_matcher() and "pos_embed" in model.no_weight_decay()


def test_random_numbers_depend_on_the_seed_alone() -> None:
    def numbers(seed: int) -> torch.Tensor:
        model: Any = tiny_vit()
        torch.rand(3)
        adapt(model, lora(), seed)
        weight: torch.Tensor = model.blocks[0].attn.qkv.lora_A["default"].weight
        return weight

    state = torch.get_rng_state()
    torch.manual_seed(1)
    first, second = numbers(SEED), numbers(SEED)
    assert torch.equal(first, second) and not torch.equal(first, numbers(SEED + 1))
    before = torch.get_rng_state()
    adapt(tiny_vit(), lora(), SEED)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)


def test_frozen_statistics_stay_and_are_used_in_training() -> None:
    model = made_by_timm("test_resnet")
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer += 0.5
    adapt(model, lora(targets=["conv2"]), SEED)
    before = {name: each.clone() for name, each in model.named_buffers()}
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = model(images)
        # an image's output does not depend on the images beside it
        torch.testing.assert_close(model(images[:1]), together[:1])
    assert all(torch.equal(each, before[name]) for name, each in model.named_buffers())


def test_learning_rate_and_decay_of_an_adapter() -> None:
    recipe = published("finetune", VIT, {"adapter": {"kind": "lora"}, "steps": 5})
    model = tiny_vit()
    adapt(model, recipe.adapter or lora(), SEED)
    groups = create_optimizer(model, recipe).param_groups
    assert {group["lr_scale"] for group in groups} == {1.0}  # no layer decay
    names = {id(each): name for name, each in model.named_parameters()}
    decayed = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert sorted(decayed) == sorted(learning(model))
    assert {name: value for name, value in decayed.items() if ".lora_" not in name} == {
        "fc_norm.weight": 0.0,
        "fc_norm.bias": 0.0,
        "head.weight": 0.05,
        "head.bias": 0.0,
    }
    assert {value for name, value in decayed.items() if ".lora_" in name} == {0.05}


@pytest.mark.parametrize(
    ("name", "targets", "expected"),
    [
        (
            "test_resnet",
            None,
            "it has no qkv layer that LoRA could adapt, the default; the ends of names of those "
            "that it has are conv1.0, conv1.3, conv1.6, conv1, conv2, downsample.1, conv3: name "
            "some in adapter.targets, or write targets: [] to train the head alone",
        ),
        # depthwise convolutions and the head are not among them
        ("test_efficientnet", ["conv_dw"], "it has no conv_dw layer that LoRA could adapt; the"),
        ("test_vit", ["qkv", "head", "q"], "it has no head or q layer that LoRA could adapt; the"),
        ("test_vit", ["kv"], "are proj, qkv, fc1, fc2: name some"),  # the whole last part
    ],
)
def test_targets_that_no_layer_has(name: str, targets: list[str] | None, expected: str) -> None:
    with pytest.raises(InputError) as error:
        adapted_layers(made_by_timm(name), lora(targets=targets))
    assert expected in str(error.value)


def test_dilated_convolutions_are_not_among_the_layers() -> None:
    # peft's own convolution has no dilation: it would give another size
    dilated = timm.create_model("test_resnet", output_stride=8)
    found = adapted_layers(dilated, lora(targets=["conv2"]))
    layers = {name: each for name, each in dilated.named_modules() if name.endswith(".conv2")}
    assert {each.dilation for each in layers.values()} == {(1, 1), (4, 4)}
    assert found == [name for name, each in layers.items() if each.dilation == (1, 1)]
    adapt(dilated, lora(targets=["conv2"]), SEED)
    assert dilated(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_a_target_may_say_where() -> None:
    assert adapted_layers(tiny_vit(), lora(targets=["1.attn.qkv"])) == ["blocks.1.attn.qkv"]
