"""timm backbones: their names without importing timm, and models built from a recipe."""

import difflib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from trainers.recipe import Recipe


@lru_cache(maxsize=1)
def backbone_names() -> tuple[frozenset[str], frozenset[str]]:
    """timm's architectures, and its weights as ``architecture.tag``, read from its source.

    ``import timm`` takes 5 s, most of it torch; checking an experiment file must not. A test
    compares this with ``timm.list_models``.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("timm is not installed; install semigrid with its dependencies")
    architectures: set[str] = set()
    weights: set[str] = set()
    for path in (Path(spec.submodule_search_locations[0]) / "models").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        architectures.update(re.findall(r"^@register_model\ndef (\w+)\(", source, re.MULTILINE))
        weights.update(re.findall(r"^ {4}['\"]([\w-]+\.[\w.-]+)['\"]\s*:", source, re.MULTILINE))
    known = {name for name in weights if name.split(".")[0] in architectures}
    return frozenset(architectures), frozenset(known)


def backbone_problem(backbone: str, pretrained: bool) -> str | None:
    """What is wrong with a backbone's name, with the nearest names; None if nothing is.

    Pretrained weights need their tag (``resnet18.tv_in1k``): without it, the weights that a name
    means would change with timm's version.
    """
    architectures, weights = backbone_names()
    architecture, _, tag = backbone.partition(".")
    if architecture not in architectures:
        near = difflib.get_close_matches(backbone, sorted(architectures | weights), n=4, cutoff=0.5)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return f"timm has no backbone of this name{hint}"
    if tag and backbone not in weights:
        tags = sorted(name for name in weights if name.split(".")[0] == architecture)
        hint = ", ".join(tags) if tags else "none: write pretrained: false"
        return f"timm has no weights of this tag for {architecture}; there are {hint}"
    if pretrained and not tag:
        tags = sorted(name for name in weights if name.split(".")[0] == architecture)
        hint = ", ".join(tags) if tags else "none"
        return f"pretrained weights need a tag ({hint}), or write pretrained: false"
    return None


def create_model(
    backbone: str,
    num_classes: int,
    recipe: "Recipe",
    backbone_args: dict[str, Any],
    pretrained: bool,
    seed: int,
) -> "nn.Module":
    """A timm model with a new head; what is random in it depends on ``seed`` alone."""
    import timm
    import torch
    from torch import nn

    args: dict[str, Any] = {"num_classes": num_classes, **backbone_args}
    if recipe.drop_path:
        args["drop_path_rate"] = recipe.drop_path
    if recipe.global_pool is not None:
        args["global_pool"] = recipe.global_pool
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = timm.create_model(backbone, pretrained=pretrained, **args)
        head = model.get_classifier()  # type: ignore[operator]  # every timm model has it
        if recipe.head_std is not None and isinstance(head, nn.Linear):
            nn.init.trunc_normal_(head.weight, std=recipe.head_std)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return model


def input_statistics(model: "nn.Module") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that the model's weights expect."""
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    return tuple(config["mean"]), tuple(config["std"])
