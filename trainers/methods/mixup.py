"""Mixup, CutMix and probabilistic pseudo mixup, for whole batches at once (docs/methods.md §3, §4).

Draws are made for the *global* batch, from a generator that all ranks seed alike, and the caller
brings each image's partner. The mix therefore does not depend on how many workers share the batch.
Partners are of one group of consecutive images, as on the GPUs of the published trainings, of which
each mixed its own: so workers that share the groups among them exchange no images.
"""

import math
from dataclasses import dataclass

import torch


def smooth_one_hot(labels: torch.Tensor, num_classes: int, smoothing: float) -> torch.Tensor:
    """Label smoothing: 1 − ε + ε/K for the class, ε/K for the others; (B,) to (B, K)."""
    other = smoothing / num_classes
    targets = torch.full((len(labels), num_classes), other, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + other)


# Fewest images of a group: of n images drawn a partner, one in n has itself.
GROUP = 16


def group_count(images: int, groups: int) -> int:
    """How many groups a batch is mixed in: as many as asked, while they are even and not small."""
    even = math.gcd(images, groups)
    return max((n for n in range(1, even + 1) if even % n == 0 and images // n >= GROUP), default=1)


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
    """One draw for a whole batch: mixup or CutMix (), its λ (), and the centre of its box (2,)."""

    use_cutmix: torch.Tensor
    lam: torch.Tensor
    center: torch.Tensor


def draw_labeled_mix(generator: torch.Generator, mixup: float, cutmix: float) -> LabeledMix | None:
    """Mixup or CutMix with λ ~ Beta(α, α), each with probability ½; None if both are off."""
    if mixup == 0 and cutmix == 0:
        return None
    coin, *center = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    use_cutmix = cutmix > 0 and (mixup == 0 or coin < 0.5)
    alpha = torch.tensor(cutmix if use_cutmix else mixup, dtype=torch.float64)
    a, b = (torch._standard_gamma(alpha, generator=generator) for _ in range(2))
    return LabeledMix(torch.tensor(use_cutmix), (a / (a + b)).float(), torch.tensor(center))


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
    mask, covered = boxes(images.shape[2], images.shape[3], 1 - mix.lam[None], mix.center[None])
    lam = torch.where(mix.use_cutmix, 1 - covered, mix.lam)
    weight = torch.where(mix.use_cutmix, (~mask).to(lam.dtype), lam)
    return torch.lerp(others, images, weight), targets * lam + other_targets * (1 - lam)


@dataclass(frozen=True)
class PseudoMix:
    """Draws for a global batch of M images: partners π (M,), coins (M,), centres (M, 2)."""

    permutation: torch.Tensor
    use_cutmix: torch.Tensor
    centers: torch.Tensor


def draw_pseudo_mix(generator: torch.Generator, size: int, groups: int = 1) -> PseudoMix:
    """Draws the partners, and mixup or CutMix with probability ½ for each image.

    ``groups``, of which there are so many at most, keep partners to themselves.
    """
    parts = torch.arange(size).tensor_split(group_count(size, groups))
    permutation = torch.cat([s[torch.randperm(len(s), generator=generator)] for s in parts])
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
    # torch.where takes a number to the device in a copy of its own: none is given here
    area = (1 - lam) * use_cutmix
    mask, covered = boxes(images.shape[2], images.shape[3], area, centers)
    # one weight a pixel serves both: λ everywhere for mixup, 0 or 1 for CutMix
    outside = lam.masked_fill(use_cutmix, 1).to(images.dtype)
    weight = ~mask * outside.view(-1, 1, 1, 1)
    lam = torch.where(use_cutmix, 1 - covered, lam)
    return others.lerp_(images, weight), targets * lam[:, None] + other_targets * (1 - lam[:, None])
