"""The two methods, in the papers' symbols: each takes a batch and returns the loss to descend."""

from dataclasses import dataclass

import torch
from torch import nn

from trainers.losses import masked_mean, soft_cross_entropy
from trainers.mixup import (
    Permute,
    draw_labeled_mix,
    draw_pseudo_mix,
    mix_labeled,
    pseudo_mix,
    smooth_one_hot,
)
from trainers.recipe import Recipe


@dataclass
class StepInput:
    """One rank's images of a step, normalised float32 on its device.

    ``x`` (B, 3, H, W) and ``y`` (B,) are labelled; ``weak`` and ``strong`` (μB, 3, H, W) are two
    views of the unlabelled images, empty for ``finetune``.
    """

    x: torch.Tensor
    y: torch.Tensor
    weak: torch.Tensor | None = None
    strong: torch.Tensor | None = None


@dataclass
class Sharing:
    """How this rank shares the global batch: ``permute`` rows across ranks, and its own place."""

    permute: Permute
    rank: int
    world_size: int

    def local(self, rows: int) -> slice:
        """This rank's slice of a global batch of which it holds ``rows`` rows."""
        return slice(self.rank * rows, (self.rank + 1) * rows)


Losses = tuple[torch.Tensor, dict[str, torch.Tensor]]


def finetune(
    student: nn.Module,
    step: StepInput,
    recipe: Recipe,
    num_classes: int,
    draw: torch.Generator,
    sharing: Sharing,
) -> Losses:
    """Supervised fine-tuning: label smoothing, mixup or CutMix, soft cross-entropy (MAE)."""
    x, y = _mixed_labeled(step, recipe, num_classes, draw, sharing)
    loss = soft_cross_entropy(student(x), y).mean()
    return loss, {"loss": loss.detach()}


def semi(
    student: nn.Module,
    teacher: nn.Module,
    step: StepInput,
    recipe: Recipe,
    num_classes: int,
    draw: torch.Generator,
    sharing: Sharing,
) -> Losses:
    """Semi-supervised fine-tuning with an EMA teacher and probabilistic pseudo mixup (Semi-ViT).

    L = L_x + λ_u L_u; L_u counts the mixed strong views whose confidence reaches τ.
    """
    assert step.weak is not None and step.strong is not None
    with torch.no_grad():
        q = teacher(step.weak).float().softmax(dim=1)
    p, pseudo_labels = q.max(dim=1)

    x, y = _mixed_labeled(step, recipe, num_classes, draw, sharing)
    rows = len(p)
    u, y_u, p_mixed = pseudo_mix(
        step.strong,
        pseudo_labels,
        p,
        num_classes,
        recipe.label_smoothing,
        draw_pseudo_mix(draw, rows * sharing.world_size),
        sharing.local(rows),
        sharing.permute,
    )
    mask = p_mixed >= recipe.confidence_threshold

    logits_x, logits_u = student(torch.cat([x, u])).split([len(x), rows])
    loss_x = soft_cross_entropy(logits_x, y).mean()
    loss_u = masked_mean(soft_cross_entropy(logits_u, y_u), mask)
    loss = loss_x + recipe.unlabeled_loss_weight * loss_u
    return loss, {
        "loss": loss.detach(),
        "labeled_loss": loss_x.detach(),
        "unlabeled_loss": loss_u.detach(),
        "mask_rate": mask.float().mean(),
    }


def _mixed_labeled(
    step: StepInput, recipe: Recipe, num_classes: int, draw: torch.Generator, sharing: Sharing
) -> tuple[torch.Tensor, torch.Tensor]:
    targets = smooth_one_hot(step.y, num_classes, recipe.label_smoothing)
    mix = draw_labeled_mix(draw, recipe.mixup, recipe.cutmix)
    return mix_labeled(step.x, targets, mix, len(step.y) * sharing.world_size, sharing.permute)
