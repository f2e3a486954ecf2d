"""Rows that several methods make of a step's images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semigrid.trainers.methods.step import StepContext, TargetRows

if TYPE_CHECKING:
    import torch


def labeled_rows(
    images: torch.Tensor, labels: torch.Tensor, context: StepContext[Any]
) -> TargetRows:
    """The mean cross-entropy of images (B, 3, H, W) with their smoothed labels (B,).

    Weights are 1/B on every rank: the mean over ranks, which DDP takes of the gradients, is the
    mean over the global batch.
    """
    from semigrid.trainers.methods.mixup import smooth_one_hot

    targets = smooth_one_hot(labels, context.num_classes, context.recipe.label_smoothing)
    weights = images.new_full((len(images),), 1 / len(images))
    return TargetRows(images, targets, weights, context.shard.own_numbers(len(images)))
