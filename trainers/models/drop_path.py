"""Stochastic depth drawn for each image, whichever process and place in a batch it has."""

import torch
from timm.layers import DropPath, drop_path
from torch import nn

# Most uses of one drop path in a forward that get draws of their own; further ones repeat them.
CALLS = 4


class RowDropPath(nn.Module):
    """timm's ``DropPath``, with the rows to drop given from outside.

    ``scales`` (CALLS, rows) is 0 for a dropped row and 1/(1 − p) for a kept one, for each use in a
    forward: some models use one drop path for attention and MLP. Where the first dimension is not
    that of the rows (TNT's inner blocks), timm's own draw is used.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob
        self.scales: torch.Tensor | None = None
        self.call = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.scales is None or self.scales.shape[1] != len(x):
            dropped: torch.Tensor = drop_path(x, self.drop_prob, self.training)
            return dropped
        scale = self.scales[self.call % CALLS]
        self.call += 1
        return x * scale.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))


class DropPaths:
    """All drop paths of a model; one draw for each step covers the global batch.

    An image is dropped or kept alike on whichever rank and in whichever micro-batch it passes, and
    leaving others out changes nothing for it.
    """

    def __init__(self, model: nn.Module):
        self.modules: list[RowDropPath] = []
        for parent in model.modules():
            for name, child in parent.named_children():
                if isinstance(child, DropPath):
                    child = RowDropPath(child.drop_prob).train(child.training)
                    setattr(parent, name, child)
                if isinstance(child, RowDropPath):
                    self.modules.append(child)
        self._drop = torch.tensor([m.drop_prob for m in self.modules]).view(-1, 1)
        self._keep = 1 - self._drop  # on the device, once it is known
        self._scales = torch.empty(0)

    def draw(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """Draws which rows of a step each use keeps, (CALLS, modules, rows), on the CPU."""
        return torch.rand(CALLS, len(self.modules), rows, generator=generator) >= self._drop

    def step(self, kept: torch.Tensor) -> None:
        """Takes the draws of a step, on the device of the model."""
        if self._keep.device != kept.device:
            self._keep = self._keep.to(kept.device)
        self._scales = kept / self._keep

    def use(self, numbers: torch.Tensor) -> None:
        """Prepares the modules for a forward of the rows with these numbers (R,)."""
        scales = self._scales[:, :, numbers]
        for module, scales_of_module in zip(self.modules, scales.unbind(1), strict=True):
            module.scales, module.call = scales_of_module, 0
