"""Mixup, CutMix and probabilistic pseudo mixup, for whole batches at once (docs/methods.md §3, §4).

Draws are made for the *global* batch, from a generator that all ranks seed alike, and the caller
brings each image's partner. The mix therefore does not depend on how many workers share the batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


def smooth_one_hot(labels: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
    """Label smoothing: 1 − ε + ε/K for the class, ε/K for the others; (B,) to (B, K)."""
    one_hot = F.one_hot(labels, num_classes).float()
    return one_hot * (1 - smoothing) + smoothing / num_classes


def boxes(
    height: int, width: int, area: torch.Tensor, centers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """CutMix boxes (arXiv 1905.04899) clipped at the border, one for each image.

    Args:
        area: the box's share of the image's area before clipping, (B,).
        centers: uniform draws in [0, 1) for the box's centre, (B, 2).

    Returns:
        A mask (B, 1, H, W), true inside the box, and the share covered after clipping, (B,).
    """
    side = area.clamp(min=0).sqrt()

    def edges(size: int, center: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cut = (size * side).long()
        middle = (center * size).long()
        return (middle - cut // 2).clamp(0, size), (middle + (cut + 1) // 2).clamp(0, size)

    top, bottom = edges(height, centers[:, 0])
    left, right = edges(width, centers[:, 1])
    y = torch.arange(height, device=area.device)
    x = torch.arange(width, device=area.device)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    mask = rows[:, None, :, None] & columns[:, None, None, :]
    covered = ((bottom - top) * (right - left)).to(area.dtype) / (height * width)
    return mask, covered


@dataclass(frozen=True)
class LabeledMix:
    """One draw for a whole batch: mixup or CutMix, its λ, and the centre of CutMix's box."""

    use_cutmix: bool
    lam: float
    center: tuple[float, float]


def draw_labeled_mix(generator: torch.Generator, mixup: float, cutmix: float) -> LabeledMix | None:
    """Mixup or CutMix with λ ~ Beta(α, α), each with probability ½; None if both are off."""
    if mixup == 0 and cutmix == 0:
        return None
    coin, y, x = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    use_cutmix = cutmix > 0 and (mixup == 0 or coin < 0.5)
    alpha = torch.tensor(cutmix if use_cutmix else mixup, dtype=torch.float64)
    a, b = (torch._standard_gamma(alpha, generator=generator).item() for _ in range(2))
    return LabeledMix(use_cutmix, a / (a + b), (y, x))


def mix_labeled(
    images: torch.Tensor,
    targets: torch.Tensor,
    others: torch.Tensor,
    other_targets: torch.Tensor,
    mix: LabeledMix,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixes each image with its partner, as timm's Mixup does for a whole batch.

    Args:
        images: (B, C, H, W).
        targets: (B, K), rows summing to 1.
        others, other_targets: the partners, same shapes; timm's are the mirrored global batch.

    Returns:
        Mixed images and targets, same shapes; λ is corrected to the box that was pasted.
    """
    if mix.use_cutmix:
        area = torch.tensor([1 - mix.lam], device=images.device)
        center = torch.tensor([mix.center], device=images.device)
        mask, covered = boxes(images.shape[2], images.shape[3], area, center)
        lam = float(1 - covered)
        mixed = torch.where(mask, others, images)
    else:
        lam = mix.lam
        mixed = images * lam + others * (1 - lam)
    return mixed, targets * lam + other_targets * (1 - lam)


@dataclass(frozen=True)
class PseudoMix:
    """Draws for a global batch of M images: partners π (M,), coins (M,), centres (M, 2)."""

    permutation: torch.Tensor
    use_cutmix: torch.Tensor
    centers: torch.Tensor


def draw_pseudo_mix(generator: torch.Generator, size: int) -> PseudoMix:
    """Draws the partners, and mixup or CutMix with probability ½ for each image."""
    permutation = torch.randperm(size, generator=generator)
    draws = torch.rand(size, 3, generator=generator)
    return PseudoMix(permutation, draws[:, 0] < 0.5, draws[:, 1:])


def pseudo_mix(
    images: torch.Tensor,
    others: torch.Tensor,
    targets: torch.Tensor,
    other_targets: torch.Tensor,
    confidence: torch.Tensor,
    other_confidence: torch.Tensor,
    use_cutmix: torch.Tensor,
    centers: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilistic pseudo mixup (Semi-ViT, arXiv 2208.05688, §3.3), each image with its partner.

    λ_i = p_i / (p_i + p_π(i)) weighs an image u_i against its partner u_π(i) by the teacher's
    confidence in each; for CutMix it is corrected to the box that was pasted.

    Args:
        images, others: unmixed strong views (B, C, H, W) and their partners, which are overwritten:
            another tensor of this size would take as long to get as the mixing.
        targets, other_targets: (B, K).
        confidence, other_confidence: p_i and p_π(i), (B,).
        use_cutmix: (B,), mixup where false.
        centers: of the boxes, (B, 2).

    Returns:
        Mixed images (B, C, H, W) and soft targets (B, K).
    """
    lam = confidence / (confidence + other_confidence)
    area = torch.where(use_cutmix, 1 - lam, 0)
    mask, covered = boxes(images.shape[2], images.shape[3], area, centers)
    # one weight a pixel serves both: λ everywhere for mixup, 0 or 1 for CutMix
    outside = torch.where(use_cutmix, 1, lam).to(images.dtype)
    weight = torch.where(mask, 0, outside.view(-1, 1, 1, 1))
    lam = torch.where(use_cutmix, 1 - covered, lam)
    return others.lerp_(images, weight), targets * lam[:, None] + other_targets * (1 - lam[:, None])
