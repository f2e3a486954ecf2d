"""timm backbones: their names without importing timm, and models built from a recipe."""

import difflib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semigrid.data.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from semigrid.trainers.recipe import Recipe


# timm's source files of convolutional networks that the ResNet recipe (SGD) is meant for; newer
# ones (ConvNeXt, MetaFormer) are trained like transformers
# fmt: off
_CONVNETS = frozenset((
    "byobnet", "cspnet", "densenet", "dla", "dpn", "efficientnet", "ghostnet", "hardcorenas",
    "hgnet", "hrnet", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2",
    "mobilenetv3", "mobilenetv5", "nasnet", "nfnet", "pnasnet", "regnet", "repghost", "res2net",
    "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "tresnet", "vgg",
    "vovnet", "xception", "xception_aligned",
))
# fmt: on


@lru_cache(maxsize=1)
def _timm_source() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """timm's architectures with the source file of each, and what it says of its weights.

    Weights are named ``name.tag``; of each, the ``license`` and the ``hub`` repository are known
    where the source states them.

    ``import timm`` takes 5 s, most of it torch; checking an experiment file must not. So the
    source is read as text. A few names that timm makes at run time are not found this way.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("timm is not installed; install semigrid with its dependencies")
    architectures: dict[str, str] = {}
    weights: dict[str, dict[str, str]] = {}
    for path in (Path(spec.submodule_search_locations[0]) / "models").glob("*.py"):
        source = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
        for name in re.findall(r"^@register_model\ndef (\w+)\(", source, re.MULTILINE):
            architectures[name] = path.stem
        defaults = dict(_DEFAULT_LICENSE.findall(source))
        # 'name.tag': _cfg(...), each up to where the next one starts; some have no file behind them
        entries = re.split(r"^ {4}['\"]([\w-]+\.[\w.-]+)['\"]\s*:", source, flags=re.MULTILINE)
        for name, body in zip(entries[1::2], entries[2::2], strict=True):
            body = body.split("\n})")[0]
            has_file = re.search(r"hf_hub_id=(?!'')|url=(?!'')|url_|_url", body)
            if has_file and not name.endswith(".untrained"):
                weights[name] = _stated(name, body, defaults)
    known = {name: facts for name, facts in weights.items() if name.split(".")[0] in architectures}
    return architectures, known


# the licence that a module's own maker of entries gives where an entry names none
_DEFAULT_LICENSE = re.compile(
    r"^def (_\w*cfg\w*)\((?:(?!^def ).)*?'license': '([^']+)'", re.MULTILINE | re.DOTALL
)


def _stated(name: str, entry: str, defaults: dict[str, str]) -> dict[str, str]:
    facts = {}
    licenses = set(re.findall(r"license=['\"]([^'\"]+)['\"]", entry))
    if "license=" not in entry and (maker := re.match(r"\s*(\w+)\(", entry)):
        licenses = {defaults[m] for m in (maker[1],) if m in defaults}
    if len(licenses) == 1:
        facts["license"] = licenses.pop()
    hubs = set(re.findall(r"hf_hub_id=['\"]([^'\"]+)['\"]", entry))
    if hubs == {"timm/"}:
        facts["hub"] = f"timm/{name}"
    return facts


def timm_weights(backbone: str) -> dict[str, str]:
    """``license`` and ``hub`` repository of a backbone's weights, where timm states them."""
    stated = _timm_source()[1].get(backbone)
    if stated is None or stated.keys() == {"license", "hub"}:
        return stated or {}
    import timm  # what its source does not say in so many words, it knows at run time

    config = timm.get_pretrained_cfg(backbone)
    hub = config.hf_hub_id and config.hf_hub_id + (backbone if config.hf_hub_id[-1] == "/" else "")
    return {k: v for k, v in (("license", config.license), ("hub", hub)) if v}


def backbone_names() -> tuple[frozenset[str], frozenset[str]]:
    """timm's architectures, and the weights found in its source as ``architecture.tag``."""
    architectures, weights = _timm_source()
    return frozenset(architectures), frozenset(weights)


def backbone_family(backbone: str) -> str:
    """``convnet`` for residual and other convolutional networks, else ``transformer``."""
    architectures, _ = _timm_source()
    source = architectures.get(backbone.partition(".")[0])
    return "convnet" if source in _CONVNETS else "transformer"


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
    tags = ", ".join(sorted(name for name in weights if name.split(".")[0] == architecture))
    if tag and backbone not in weights and backbone not in _weights_by_import():
        known = tags or f"none: write {architecture} and pretrained: false"
        return f"timm has no weights of this tag for {architecture}; there are {known}"
    if pretrained and not tag:
        return f"pretrained weights need a tag ({tags or 'none'}), or write pretrained: false"
    return None


@lru_cache(maxsize=1)
def _weights_by_import() -> frozenset[str]:
    """All of timm's weights as timm itself lists them; slow, for a name not found in its source."""
    import timm

    return frozenset(timm.list_models(pretrained=True))


def create_model(
    backbone: str,
    num_classes: int,
    recipe: "Recipe",
    backbone_args: dict[str, Any],
    pretrained: bool,
    seed: int,
    pretrained_cfg: dict[str, Any] | None = None,
) -> "nn.Module":
    """A timm model with a new head; what is random in it depends on ``seed`` alone.

    ``pretrained_cfg`` overlays timm's own of this name (``weights.load_from_file``).
    """
    import timm
    import torch
    from torch import nn

    args: dict[str, Any] = {"num_classes": num_classes, **backbone_args}
    if recipe.drop_path:
        args["drop_path_rate"] = recipe.drop_path
    if recipe.global_pool is not None:
        args["global_pool"] = recipe.global_pool
    if pretrained_cfg is not None:
        args["pretrained_cfg_overlay"] = pretrained_cfg
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
