"""Losses over soft targets."""

import torch
import torch.nn.functional as F


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits (B, K) with soft targets (B, K) for each image, (B,), in float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def entropy(counts: torch.Tensor) -> float:
    """Entropy in nats of the distribution proportional to the counts (K,); 0 without any."""
    shares = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(shares).sum())
