"""Losses over soft targets."""

import torch
import torch.nn.functional as F


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each image with its soft target, (B, K), (B, K) to (B,), in float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def masked_mean(losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum of the losses where the mask is true over the number of *all* images (FixMatch, eq. 4).

    Dividing by all of them keeps the mean over ranks exact, however the mask falls on them.
    """
    return (losses * mask).sum() / len(losses)
