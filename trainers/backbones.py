"""Names, families and licences of timm's backbones, read without importing timm or torch."""

import difflib
import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from semigrid.data.errors import InputError

Family = Literal["transformer", "convnet"]

# timm's source files of the convolutional networks that the ResNet recipe (SGD) is meant for; newer
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

# the licence that a module's own maker of entries (def _cfg) gives where an entry names none
_DEFAULT_LICENSE = re.compile(
    r"^def (_\w*cfg\w*)\((?:(?!^def ).)*?'license': '([^']+)'", re.MULTILINE | re.DOTALL
)


def backbone_family(backbone: str) -> Family:
    """``convnet`` for residual and other convolutional networks, else ``transformer``."""
    architectures, _ = timm_source()
    source = architectures.get(backbone.partition(".")[0])
    return "convnet" if source in _CONVNETS else "transformer"


def backbone_problem(backbone: str, pretrained: bool) -> str | None:
    """Why a backbone's name cannot be used, with the nearest names; None if it can.

    Pretrained weights need their tag (``resnet18.tv_in1k``): the weights that a name without a tag
    stands for change with timm's version.
    """
    architectures, weights = timm_source()
    architecture, _, tag = backbone.partition(".")
    if architecture not in architectures:
        names = sorted({*architectures, *weights})
        near = difflib.get_close_matches(backbone, names, n=4, cutoff=0.5)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return f"timm has no backbone of this name{hint}"
    tags = ", ".join(sorted(name for name in weights if name.split(".")[0] == architecture))
    if tag and backbone not in weights and backbone not in _weights_by_import():
        known = tags or f"none: write {architecture} and pretrained: false"
        return f"timm has no weights of this tag for {architecture}; there are {known}"
    if pretrained and not tag:
        return f"pretrained weights need a tag ({tags or 'none'}), or write pretrained: false"
    return None


def timm_weights(backbone: str) -> dict[str, str]:
    """``license`` and ``hub`` repository of a backbone's weights, where timm states them."""
    stated = timm_source()[1].get(backbone)
    if stated is None or stated.keys() == {"license", "hub"}:
        return stated or {}
    import timm  # it computes at run time what its source does not spell out

    config = timm.get_pretrained_cfg(backbone)
    hub = config.hf_hub_id and config.hf_hub_id + (backbone if config.hf_hub_id[-1] == "/" else "")
    return {k: v for k, v in (("license", config.license), ("hub", hub)) if v}


@lru_cache(maxsize=1)
def timm_source() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """timm's architectures with the source file of each, and the facts stated about its weights.

    Weights are named ``architecture.tag``; their facts are ``license`` and ``hub`` repository,
    where the source states them.

    ``import timm`` takes 5 s, most of it torch, which is too long for checking an experiment file;
    the source is read as text instead. A few names that timm makes at run time are not in it.
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
        weights |= _weights_in(source)
    known = {name: facts for name, facts in weights.items() if name.split(".")[0] in architectures}
    return architectures, known


def _weights_in(source: str) -> dict[str, dict[str, str]]:
    """The weights that one of timm's source files lists, with their facts."""
    weights = {}
    defaults = dict(_DEFAULT_LICENSE.findall(source))
    # 'name.tag': _cfg(...), each up to where the next one starts
    entries = re.split(r"^ {4}['\"]([\w-]+\.[\w.-]+)['\"]\s*:", source, flags=re.MULTILINE)
    for name, body in zip(entries[1::2], entries[2::2], strict=True):
        body = body.split("\n})")[0]
        has_file = re.search(r"hf_hub_id=(?!'')|url=(?!'')|url_|_url", body)
        if has_file and not name.endswith(".untrained"):
            weights[name] = _facts(name, body, defaults)
    return weights


def _facts(name: str, entry: str, defaults: dict[str, str]) -> dict[str, str]:
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


@lru_cache(maxsize=1)
def _weights_by_import() -> frozenset[str]:
    """All weights that timm itself lists; slow, for a name that its source does not show."""
    import timm

    return frozenset(timm.list_models(pretrained=True))
