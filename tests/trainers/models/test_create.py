from typing import Any

import pytest
import timm
import torch
from tests.helpers.tiny import VIT, VIT_ARGS, tiny_recipe
from torch import nn

from semigrid.trainers.methods import published
from semigrid.trainers.models.create import (
    architecture_args,
    create_model,
    flops_per_image,
    input_statistics,
)


def tiny(seed: int, **recipe: Any) -> nn.Module:
    return create_model(VIT, 10, tiny_recipe("finetune", **recipe), VIT_ARGS, False, seed)


def test_a_model_is_a_function_of_its_seed() -> None:
    torch.manual_seed(1)
    first = tiny(seed=5).state_dict()
    torch.manual_seed(2)
    second, other = tiny(seed=5).state_dict(), tiny(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert not torch.equal(first["pos_embed"], other["pos_embed"])


def test_creating_a_model_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    tiny(seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_head_starts_small_and_without_bias() -> None:
    head = tiny(seed=0, head_std=2e-5).get_classifier()
    assert head.weight.shape == (10, 32)
    assert head.weight.std().item() == pytest.approx(2e-5, rel=0.15)
    assert not head.bias.any()


def test_a_resnet_keeps_timms_own_head() -> None:
    recipe = published("finetune", "resnet18", {"steps": 1})
    head = create_model("test_resnet", 7, recipe, {}, False, 0).get_classifier()
    assert head.out_features == 7
    assert head.weight.std().item() > 0.005


def test_drop_path_grows_with_depth_up_to_the_recipes() -> None:
    model = tiny(seed=0, drop_path=0.1)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1])


def test_input_statistics_are_those_of_the_weights() -> None:
    assert input_statistics(timm.create_model("resnet18.tv_in1k")) == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    # the supervised ViT was trained on [−1, 1]
    assert input_statistics(timm.create_model("vit_tiny_patch16_224", depth=1)) == (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )


def test_flops_of_published_models() -> None:
    # 17.58 and 1.82 G multiply-adds, as their papers and timm's results table have them
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224")
        resnet = timm.create_model("resnet18")
    assert flops_per_image(vit, 224) == pytest.approx(2 * 17.58e9, rel=0.01)
    assert flops_per_image(resnet, 224) == pytest.approx(2 * 1.82e9, rel=0.01)
    assert next(vit.parameters()).device.type == "meta"


def test_a_model_that_cannot_be_counted_stops_nothing() -> None:
    with torch.device("meta"):
        cait = timm.create_model("cait_xxs24_224")
    assert flops_per_image(cait, 224) is None


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 224),  # 518 by itself
        ("vit_base_patch14_reg1_tipsv2.webli", 224),  # 448
        ("vit_base_patch16_224.mae", 288),
        ("beit_base_patch16_224", 288),
        ("deit_tiny_patch16_224", 128),
        ("eva02_tiny_patch14_336", 224),
        ("swin_tiny_patch4_window7_224", 448),
        ("mixer_s16_224", 128),
        ("coat_tiny", 128),
        ("convit_tiny", 128),
        ("vit_small_patch16_dinov3", 224),
        ("eca_botnext26ts_256", 224),
    ],
)
def test_models_of_one_size_are_made_for_the_recipes(backbone: str, size: int) -> None:
    recipe = published("finetune", backbone, {"img_size": size})
    assert architecture_args(backbone, recipe, {})["img_size"] == size
    with torch.device("meta"):
        model = create_model(backbone, 10, recipe, {}, False, 0).eval()
        assert model(torch.empty(1, 3, size, size)).shape == (1, 10)


def test_models_of_any_size_are_told_none_and_arguments_of_ones_own_stay() -> None:
    recipe = published("finetune", "resnet18", {"img_size": 96})
    assert architecture_args("resnet18.tv_in1k", recipe, {}) == {}
    recipe = published("finetune", VIT, {"img_size": 32})
    own = {"img_size": 64, "dynamic_img_size": True, "depth": 1}
    assert architecture_args(VIT, recipe, own) == {**own, "global_pool": "avg"}
    model = create_model(VIT, 10, recipe, own, False, 0).eval()
    assert model.pos_embed.shape[1] == 1 + 4 * 4
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
