import math
from typing import Any

import pytest
import timm
import torch
from tests.helpers.tiny import VIT, VIT_ARGS, tiny_recipe

from semigrid.trainers.loop.schedule import create_optimizer, create_schedule
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.recipe import SteppedRecipe


def vit(recipe: SteppedRecipe) -> torch.nn.Module:
    # with a class token, as MAE's has one
    return create_model(VIT, 10, recipe, VIT_ARGS | {"class_token": True}, False, seed=0)


def rates(recipe: SteppedRecipe, step: int) -> list[float]:
    """Every group's learning rate at a step over its layer's share."""
    optimizer = create_optimizer(vit(recipe), recipe)
    create_schedule(optimizer, recipe).step_update(step)
    return [group["lr"] / group["lr_scale"] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (5, 0.01 / 2),  # half way up
        (10, 0.01),  # end of the warm-up
        (55, (0.01 + 0.001) / 2),  # half way down
        (40, 0.001 + 0.009 * (1 + math.cos(math.pi / 3)) / 2),  # a third of the way down
        (100, 0.001),
    ],
)
def test_corner_points(step: int, expected: float) -> None:
    recipe = tiny_recipe(
        "finetune", steps=100, warmup_steps=10, batch_size=256, base_lr=0.01, min_lr=0.001
    )
    assert rates(recipe, step) == pytest.approx([expected] * len(rates(recipe, step)))


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    recipe = tiny_recipe("finetune", steps=100, warmup_steps=0, batch_size=512, base_lr=0.01)
    # lr = base · batch/256
    assert rates(recipe, 0) == pytest.approx([0.02] * len(rates(recipe, 0)))


def groups_by_name(model: torch.nn.Module, recipe: SteppedRecipe) -> dict[str, dict[str, Any]]:
    """The optimiser's group of every parameter; each is in exactly one."""
    groups = create_optimizer(model, recipe).param_groups
    of = {id(parameter): group for group in groups for parameter in group["params"]}
    names = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in groups) == len(names) == len(of)
    return {name: of[id(parameter)] for name, parameter in names.items()}


def depth_by_hand(name: str, blocks: int) -> int:
    """docs/methods.md §3: embeddings and tokens are depth 0, block i is i + 1, the rest L + 1."""
    if name.startswith(("patch_embed", "pos_embed", "cls_token")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return blocks + 1


def test_layer_decay_and_weight_decay_of_every_parameter_of_vit_base() -> None:
    recipe = published("finetune", "vit_base_patch16_224.mae", {"steps": 8})
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224.mae", global_pool="avg", num_classes=30)
    groups = groups_by_name(model, recipe)
    assert len(groups) == 12 * 12 + 4 + 2 + 2  # blocks; embeddings; fc_norm; head
    for name, group in groups.items():
        # depth d of L + 1 has 0.65^(L + 1 − d) of the rate
        assert group["lr_scale"] == pytest.approx(0.65 ** (13 - depth_by_hand(name, 12))), name
        free = model.get_parameter(name).ndim == 1 or name in ("pos_embed", "cls_token")
        assert group["weight_decay"] == (0 if free else 0.05), name
    scales = {name: round(group["lr_scale"], 6) for name, group in groups.items()}
    # a few, worked out: 0.65^13, 0.65^12, 0.65, 1
    assert scales["patch_embed.proj.weight"] == scales["cls_token"] == 0.003697
    assert scales["blocks.0.attn.qkv.weight"] == 0.005688
    assert scales["blocks.11.mlp.fc2.bias"] == 0.65
    assert scales["fc_norm.weight"] == scales["head.weight"] == 1


# where the first and the last parameters are, and one name of each part from shallow to deep
OTHERS = {
    "convnext_tiny": ["stem.0", "stages.0.blocks.0", "stages.2.blocks.0", "stages.2.blocks.8"],
    "swin_tiny_patch4_window7_224": [
        *["patch_embed.proj", "layers.0.blocks.0", "layers.2.blocks.0", "layers.2.blocks.5"]
    ],
    "efficientnet_b0": ["conv_stem", "blocks.0.0", "blocks.3.0", "blocks.3.2", "blocks.6.0"],
    "resnet18": ["conv1", "layer1.0", "layer2.0", "layer2.1", "layer4.1"],
}


@pytest.mark.parametrize("backbone", OTHERS)
def test_layer_decay_of_other_families_falls_from_head_to_stem(backbone: str) -> None:
    recipe = tiny_recipe("finetune", layer_decay=0.65, weight_decay=0.05)
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=10)
    groups = groups_by_name(model, recipe)
    first, *_ = parts = OTHERS[backbone]
    scales = {
        part: {group["lr_scale"] for name, group in groups.items() if name.startswith(part)}
        for part in parts
    }
    assert all(len(found) == 1 for found in scales.values()), scales  # a part has one rate
    in_order = [found.pop() for found in scales.values()]
    assert in_order == sorted(set(in_order))  # deeper, faster, no two alike
    every = [group["lr_scale"] for group in groups.values()]
    assert in_order[0] == min(every) and max(every) == 1
    heads = [name for name in groups if name.startswith(("head.fc", "fc.", "classifier"))]
    assert heads and all(groups[name]["lr_scale"] == 1 for name in heads)
    for name, group in groups.items():
        free = model.get_parameter(name).ndim == 1 or "relative_position_bias" in name
        assert group["weight_decay"] == (0 if free else 0.05), name


def test_all_parameters_of_the_published_resnet_decay_at_one_rate() -> None:
    recipe = published("finetune", "resnet18.tv_in1k", {"steps": 8})
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=10)
    groups = groups_by_name(model, recipe)
    assert len(groups) == 62
    assert {g["weight_decay"] for g in groups.values()} == {1e-4}
    assert {g["lr_scale"] for g in groups.values()} == {1.0}


def one_group(recipe: SteppedRecipe, backbone: str = "test_resnet", **args: Any) -> dict[str, Any]:
    model = create_model(backbone, 10, recipe, args, False, seed=0)
    optimizer = create_optimizer(model, recipe)
    return {"type": type(optimizer)} | optimizer.param_groups[0]


def test_resnets_train_with_nesterov_sgd_at_one_rate() -> None:
    recipe = resolve(published("finetune", "resnet18", {"steps": 8}), "finetune", 2_000, 0)
    group = one_group(recipe)
    assert group["type"] is torch.optim.SGD
    assert group["nesterov"] and group["momentum"] == 0.9
    assert group["lr"] == pytest.approx(0.01)  # 256 images a batch
    model = create_model("test_resnet", 10, recipe, {}, False, seed=0)
    scales = {group["lr_scale"] for group in create_optimizer(model, recipe).param_groups}
    assert scales == {1.0}


def test_vits_train_with_adamw() -> None:
    recipe = tiny_recipe("finetune", beta1=0.9, beta2=0.95)
    group = one_group(recipe, VIT, **VIT_ARGS)
    assert group["type"] is torch.optim.AdamW
    assert group["betas"] == (0.9, 0.95)


def test_a_warmup_as_long_as_the_training_is_refused_at_the_door() -> None:
    # else it is an assertion in timm, when the training starts
    with pytest.raises(ValueError, match="warmup_steps"):
        resolve(published("finetune", VIT, {"steps": 10, "warmup_steps": 10}), "finetune", 40, 0)
