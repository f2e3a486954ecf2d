"""Names, families and licences of timm's backbones, without importing timm or torch."""

import contextlib
import difflib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Literal

from semigrid.data.storage import cache_folder, open_storage

Family = Literal["transformer", "convnet"]

# timm's modules of the convolutional networks that the ResNet recipe (SGD) is meant for; newer
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


@dataclass(frozen=True)
class TimmNames:
    """What timm can make.

    ``architectures`` maps each name to the timm module that defines it; ``weights`` maps each
    ``architecture.tag`` to the ``license`` and ``hub`` repository that timm states.
    """

    architectures: dict[str, str]
    weights: dict[str, dict[str, str]]


@lru_cache(maxsize=1)
def timm_names() -> TimmNames:
    """timm's names, from this machine's cache.

    ``import timm`` takes 5 s, most of it torch, which is too long for checking an experiment file.
    It is done once for each version of timm.
    """
    cache, name = open_storage(cache_folder()), f"timm-{version('timm')}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):  # missing, or damaged
        return TimmNames(**json.loads(cache.read(name)))
    names = _import_names()
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        cache.write(name, json.dumps(asdict(names)).encode())
    return names


def _import_names() -> TimmNames:
    import timm

    modules = {
        name: timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        for name in timm.list_models()
    }
    weights = {}
    for name in timm.list_models(pretrained=True):
        config = timm.get_pretrained_cfg(name)
        facts = {"license": config.license, "hub": config.hf_hub_id}
        weights[name] = {key: value for key, value in facts.items() if value}
    return TimmNames(modules, weights)


def backbone_family(backbone: str) -> Family:
    """``convnet`` for residual and other convolutional networks, else ``transformer``."""
    module = timm_names().architectures.get(backbone.partition(".")[0])
    return "convnet" if module in _CONVNETS else "transformer"


def backbone_problem(backbone: str, pretrained: bool) -> str | None:
    """Why a backbone's name cannot be used, with the nearest names; None if it can.

    Pretrained weights need their tag (``resnet18.tv_in1k``): the weights that a name without a tag
    stands for change with timm's version.
    """
    architectures, weights = timm_names().architectures, timm_names().weights
    architecture, _, tag = backbone.partition(".")
    if architecture not in architectures:
        names = sorted({*architectures, *weights})
        near = difflib.get_close_matches(backbone, names, n=4, cutoff=0.5)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return f"timm has no backbone of this name{hint}"
    tags = ", ".join(sorted(name for name in weights if name.partition(".")[0] == architecture))
    if tag and backbone not in weights:
        known = tags or f"none: write {architecture} and pretrained: false"
        return f"timm has no weights of this tag for {architecture}; there are {known}"
    if pretrained and not tag:
        return f"pretrained weights need a tag ({tags or 'none'}), or write pretrained: false"
    return None
