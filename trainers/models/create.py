"""Models: a timm backbone with a new head, built from a recipe."""

import copy
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semigrid.trainers.recipe import Recipe, SteppedRecipe

# One number for each channel of an image.
Rgb = tuple[float, float, float]


def create_model(
    backbone: str,
    num_classes: int,
    recipe: Recipe,
    backbone_args: dict[str, Any],
    pretrained: bool | dict[str, Any],
    seed: int,
) -> nn.Module:
    """A timm model with a new head; its random numbers depend on ``seed`` alone.

    A ``pretrained`` that is no bool overlays timm's own configuration of the weights. Where these
    have position embeddings of another size, timm resamples them as it loads.
    """
    args = {"num_classes": num_classes, **architecture_args(backbone, recipe, backbone_args)}
    drop_path, head_std = 0.0, None
    if isinstance(recipe, SteppedRecipe):
        drop_path, head_std = recipe.drop_path, recipe.head_std
    if drop_path:
        args["drop_path_rate"] = drop_path
    if isinstance(pretrained, dict):
        args["pretrained_cfg_overlay"] = pretrained
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = timm.create_model(backbone, pretrained=bool(pretrained), **args)
        head = model.get_classifier()  # type: ignore[operator]  # every timm model has it
        if head_std is not None and isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=head_std)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return model


def architecture_args(
    backbone: str, recipe: Recipe, backbone_args: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that decide a model's weights and how it uses them, its classes aside.

    Models that timm makes for one size of images get the recipe's, unless ``backbone_args`` has
    one: a DINOv2 would take 518 pixels and nothing else.
    """
    args = dict(backbone_args)
    if recipe.global_pool is not None:
        args["global_pool"] = recipe.global_pool
    if timm.get_pretrained_cfg(backbone).fixed_input_size:
        args.setdefault("img_size", recipe.img_size)
    return args


def input_statistics(model: nn.Module) -> tuple[Rgb, Rgb]:
    """Mean and standard deviation per channel that the model's weights expect."""
    config = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    mean, deviation = config["mean"], config["std"]
    return (mean[0], mean[1], mean[2]), (deviation[0], deviation[1], deviation[2])


def flops_per_image(model: nn.Module, img_size: int) -> int | None:
    """Floating-point operations of one forward of one image, counting a multiply-add as two.

    None for a model that torch cannot count (CaiT): the figure is only informative.
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            shadow(torch.empty(1, 3, img_size, img_size, device="meta"))
    except Exception:  # whatever the model's own code does on tensors without data
        return None
    return int(counter.get_total_flops())
