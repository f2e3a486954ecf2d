"""A trained model as a folder that ``timm.create_model('local-dir:…')`` opens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semigrid.trainers.trial.identity import TrialSpec

if TYPE_CHECKING:
    from torch import nn

    from semigrid.data.views.augment import ViewSettings

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# The evaluation view resizes the shorter side to img_size·256/224.
CROP_PCT = 224 / 256
# Facts that timm knows about an architecture, whatever its weights.
_TRAITS = ("first_conv", "classifier", "fixed_input_size")


def write_timm_folder(
    folder: Path,
    model: "nn.Module",
    spec: TrialSpec,
    classes: Sequence[str],
    views: "ViewSettings",
    license: str,
) -> None:
    """Writes the weights, and the config that makes timm build this model and its view.

    ``model_args`` are the arguments of the architecture, except those that act only in training.
    ``pretrained_cfg`` makes timm's own evaluation view the one that was measured.
    """
    from safetensors.torch import save

    from semigrid.trainers.models.create import architecture_args

    own = getattr(model, "pretrained_cfg", {})
    size = (3, views.img_size, views.img_size)
    pretrained = {name: own[name] for name in _TRAITS if own.get(name) is not None}
    pretrained |= {
        "tag": spec.id,
        "custom_load": False,
        "input_size": size,
        "interpolation": views.interpolation,
        "crop_pct": CROP_PCT,
        "crop_mode": "center",
        "mean": views.mean,
        "std": views.std,
        "num_classes": len(classes),
        "license": license,
    }
    config = {
        "architecture": spec.backbone.partition(".")[0],
        "num_classes": len(classes),
        "num_features": getattr(model, "num_features", None),
        "label_names": list(classes),
        "model_args": architecture_args(spec.backbone, spec.recipe, spec.backbone_args),
        "pretrained_cfg": pretrained,
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # not save_file: its files can be read by their owner only
    (folder / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def open_timm_folder(folder: Path) -> tuple["nn.Module", Any]:
    """The model in eval mode and its evaluation view (Pillow image to tensor), both timm's own."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return model, create_transform(**resolve_model_data_config(model), is_training=False)
