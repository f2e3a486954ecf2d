"""The two methods, in the papers' symbols: each turns a step's images into what the student learns.

What comes out is rows: images, soft targets and weights such that Σ factor · weight · CE is the
method's loss. How the rows pass through the student, all at once or in micro-batches, is not the
method's matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from semigrid.trainers.mixup import (
    draw_labeled_mix,
    draw_pseudo_mix,
    mix_labeled,
    pseudo_mix,
    smooth_one_hot,
)
from semigrid.trainers.recipe import Recipe

# (my rows of the global batch, the global row numbers that each rank wants) -> those I want
Fetch = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]
# weak views (N, 3, H, W) to logits (N, K), in eval mode and without gradient
Teacher = Callable[[torch.Tensor], torch.Tensor]


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
    """How this rank shares the global batch: ``fetch`` rows of any rank, and its own place."""

    fetch: Fetch
    rank: int
    world_size: int

    def deal(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Global row numbers dealt to the ranks in order, as evenly as they divide."""
        return list(numbers.tensor_split(self.world_size))


@dataclass
class Rows:
    """What one rank's student learns from: images (R, 3, H, W), targets (R, K), weights (R,).

    Their loss is Σ weight · CE; in the method's loss it counts ``factor`` times (λ_u).
    ``numbers`` (R,), on the CPU, count the rows within the step over all ranks.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    numbers: torch.Tensor
    factor: float = 1.0

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Lesson:
    """A step's rows, labelled and unlabelled, and what it notes of the pseudo labels.

    ``sums`` are values to average over ranks and steps; ``pseudo_counts`` (K,) is added up.
    """

    labeled: Rows
    unlabeled: Rows | None = None
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    pseudo_counts: torch.Tensor | None = None


def finetune(
    step: StepInput, recipe: Recipe, num_classes: int, draw: torch.Generator, sharing: Sharing
) -> Lesson:
    """Supervised fine-tuning: label smoothing, mixup or CutMix, soft cross-entropy (MAE)."""
    return Lesson(_labeled_rows(step, recipe, num_classes, draw, sharing))


def semi(
    teacher: Teacher,
    step: StepInput,
    recipe: Recipe,
    num_classes: int,
    draw: torch.Generator,
    sharing: Sharing,
    skip_masked: bool,
    at_least: int = 0,
) -> Lesson:
    """Semi-supervised fine-tuning with an EMA teacher and probabilistic pseudo mixup (Semi-ViT).

    L = L_x + λ_u L_u; L_u counts the mixed strong views whose confidence reaches τ, and divides
    by the number of all (FixMatch, eq. 4). With ``skip_masked`` the others are left out of the
    rows: their weight is 0. The rows that remain are dealt anew, so that no rank waits for one
    that happened to keep more; if there are any, each rank gets ``at_least`` so many, masked ones
    if need be.
    """
    assert step.weak is not None and step.strong is not None
    device, size = step.weak.device, len(step.weak) * sharing.world_size
    everywhere = [torch.arange(size)] * sharing.world_size
    p, pseudo_labels = teacher(step.weak).float().softmax(dim=1).max(dim=1)
    p, pseudo_labels = sharing.fetch(p, everywhere), sharing.fetch(pseudo_labels, everywhere)

    labeled = _labeled_rows(step, recipe, num_classes, draw, sharing)
    mix = draw_pseudo_mix(draw, size)
    partners = mix.permutation.to(device)
    mask = torch.maximum(p, p[partners]) >= recipe.confidence_threshold
    numbers = torch.arange(size)
    dealt = sharing.deal(
        _counting(mask.cpu(), at_least * sharing.world_size) if skip_masked else numbers
    )
    mine = dealt[sharing.rank]
    i, j = mine.to(device), partners[mine.to(device)]

    pairs = sharing.fetch(step.strong, [torch.cat([n, mix.permutation[n]]) for n in dealt])
    images, others = pairs.tensor_split(2)
    targets = smooth_one_hot(pseudo_labels, num_classes, recipe.label_smoothing)
    u, y = pseudo_mix(
        images,
        others,
        targets[i],
        targets[j],
        p[i],
        p[j],
        mix.use_cutmix[mine].to(device),
        mix.centers[mine].to(device),
    )
    # DDP averages the ranks' gradients: each weighs its rows as if they were of its own batch
    weights = mask[i].float() / len(step.weak)
    first = len(step.x) * sharing.world_size
    return Lesson(
        labeled,
        Rows(u, y, weights, first + mine, recipe.unlabeled_loss_weight),
        {"mask_rate": mask.float().mean()},
        torch.bincount(pseudo_labels, minlength=num_classes),
    )


def _counting(mask: torch.Tensor, at_least: int) -> torch.Tensor:
    """Sorted numbers of the images that count, and if there are any, ``at_least`` so many.

    A masked image has weight 0 wherever it goes.
    """
    kept = mask.nonzero().flatten()
    if 0 < len(kept) < at_least:
        filling = (~mask).nonzero().flatten()[: at_least - len(kept)]
        kept = torch.cat([kept, filling]).sort().values
    return kept


def _labeled_rows(
    step: StepInput, recipe: Recipe, num_classes: int, draw: torch.Generator, sharing: Sharing
) -> Rows:
    x, y = step.x, smooth_one_hot(step.y, num_classes, recipe.label_smoothing)
    size = len(x) * sharing.world_size
    mix = draw_labeled_mix(draw, recipe.mixup, recipe.cutmix)
    if mix is not None:
        mirrored = sharing.deal(torch.arange(size - 1, -1, -1))
        x, y = mix_labeled(x, y, sharing.fetch(x, mirrored), sharing.fetch(y, mirrored), mix)
    weights = torch.full((len(x),), 1 / len(x), device=x.device)
    return Rows(x, y, weights, sharing.deal(torch.arange(size))[sharing.rank])
