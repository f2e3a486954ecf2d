"""The linear head of a model: from a vector an image to logits."""

from typing import Any

import numpy as np
import torch
from torch import nn

from semigrid.data.errors import InputError


def pooled(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """timm's features before the head, (N, D), of normalised images (N, 3, H, W)."""
    network: Any = model
    features: torch.Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
    return features.flatten(1)


def _head(model: nn.Module) -> Any:
    return model.get_classifier()  # type: ignore[operator]  # every timm model has it


def set_head(model: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Lets the logits of an image be x @ ``weight`` (D, K) + ``bias`` (K,), with x ``pooled``."""
    head = _head(model)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight.T).reshape(head.weight.shape))
        head.bias.copy_(torch.from_numpy(bias))


def check_head(model: nn.Module, img_size: int) -> None:
    """Raises ``InputError`` unless a model in eval mode is one linear layer on its features."""
    head = _head(model)
    found = None
    if isinstance(head, nn.Linear | nn.Conv2d) and head.bias is not None:
        noise = torch.rand(2, 3, img_size, img_size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            features, logits = pooled(model, noise), model(noise)
            if head.weight.numel() == features.shape[1] * logits.shape[1]:
                found = features @ head.weight.flatten(1).T + head.bias
    if found is None or not torch.allclose(found, logits, rtol=1e-3, atol=1e-4):
        raise InputError(
            "its logits are no linear function of one vector an image, so no head can be fitted to "
            "features of it: choose another backbone, or another method"
        )
