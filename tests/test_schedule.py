import math
from typing import Any

import pytest
import torch
from conftest import VIT, VIT_ARGS, tiny_recipe

from trainers.models import create_model
from trainers.recipe import Recipe, published, resolve
from trainers.schedule import create_optimizer, create_schedule


def vit(recipe: Recipe) -> torch.nn.Module:
    # with a class token, as MAE's has one
    return create_model(VIT, 10, recipe, VIT_ARGS | {"class_token": True}, False, seed=0)


def rates(recipe: Recipe, step: int) -> list[float]:
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


def depth_by_hand(name: str, blocks: int) -> int:
    """method.md §3: embeddings and tokens are depth 0, block i is i + 1, the rest L + 1."""
    if name.startswith(("patch_embed", "pos_embed", "cls_token")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return blocks + 1


def test_layer_decay_and_weight_decay_of_every_parameter() -> None:
    recipe = tiny_recipe("finetune", layer_decay=0.65, weight_decay=0.05)
    model = vit(recipe)
    groups = {
        id(parameter): group
        for group in create_optimizer(model, recipe).param_groups
        for parameter in group["params"]
    }
    blocks = len(model.blocks)
    for name, parameter in model.named_parameters():
        group = groups.pop(id(parameter))
        expected = 0.65 ** (blocks + 1 - depth_by_hand(name, blocks))
        assert group["lr_scale"] == pytest.approx(expected), name
        free = parameter.ndim == 1 or name in ("pos_embed", "cls_token")
        assert group["weight_decay"] == (0 if free else 0.05), name
    assert not groups


def one_group(recipe: Recipe, backbone: str = "test_resnet", **args: Any) -> dict[str, Any]:
    model = create_model(backbone, 10, recipe, args, False, seed=0)
    optimizer = create_optimizer(model, recipe)
    return {"type": type(optimizer)} | optimizer.param_groups[0]


def test_resnets_train_with_nesterov_sgd_at_one_rate() -> None:
    recipe = resolve(published("finetune", "resnet18", {"steps": 8}), "finetune", 40, 0)
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
