"""Stochastic depth whose draws belong to the images, not to the process or the place in a batch."""

import torch
from timm.layers import DropPath, drop_path
from torch import nn


class RowDropPath(nn.Module):
    """timm's ``DropPath``, told from outside which rows to drop.

    ``scale`` (rows,) is 0 for a dropped row and 1/(1 − p) for a kept one. Where the first
    dimension is not that of the rows (windows, say), timm's own draw takes its place.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob
        self.scale: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.scale is None or len(self.scale) != len(x):
            dropped: torch.Tensor = drop_path(x, self.drop_prob, self.training)
            return dropped
        return x * self.scale.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


class DropPaths:
    """All drop paths of a model; one draw per step covers the global batch.

    So an image is dropped or kept alike on whichever rank and in whichever micro-batch it passes,
    and leaving others out changes nothing for it.
    """

    def __init__(self, model: nn.Module):
        self.modules = _replace(model)
        self._draws = torch.empty(0)

    def draw(self, rows: int, generator: torch.Generator) -> None:
        """Draws for all rows of a step, (modules, rows), on the CPU."""
        self._draws = torch.rand(len(self.modules), rows, generator=generator)

    def choose(self, numbers: torch.Tensor, device: torch.device) -> torch.Tensor:
        """The scales of some rows, (modules, len(numbers)), on the device."""
        probability = torch.tensor([m.drop_prob for m in self.modules]).view(-1, 1)
        kept = self._draws[:, numbers] >= probability
        return (kept / (1 - probability)).to(device, non_blocking=True)

    def set(self, scales: torch.Tensor) -> None:
        """Gives every module its scales for the forward that follows."""
        for module, scale in zip(self.modules, scales, strict=True):
            module.scale = scale


def _replace(model: nn.Module) -> list[RowDropPath]:
    found: list[RowDropPath] = []
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, DropPath):
                child = RowDropPath(child.drop_prob)
                setattr(parent, name, child)
            if isinstance(child, RowDropPath):
                found.append(child)
    return found
