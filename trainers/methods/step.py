"""What all methods share: a step's images, its targets, and how the ranks share its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from semigrid.trainers.recipe import Recipe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepInput:
    """One rank's images of a step, normalised float32 on its device.

    ``x`` (B, 3, H, W) and ``y`` (B,) are labelled; ``weak`` and ``strong`` (μB, 3, H, W) are two
    views of the unlabelled images, None for methods without a pool.
    """

    x: torch.Tensor
    y: torch.Tensor
    weak: torch.Tensor | None = None
    strong: torch.Tensor | None = None


@dataclass(frozen=True)
class RankShard:
    """This rank's share of the global batch.

    ``fetch(rows, wanted)`` returns rows of the global batch from whichever ranks hold them:
    ``rows`` are this rank's own, ``wanted[r]`` the global row numbers that rank r asks for.
    """

    fetch: Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]
    rank: int
    world_size: int

    def deal(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Global row numbers dealt to the ranks in order, as evenly as they divide."""
        return list(numbers.tensor_split(self.world_size))


@dataclass(frozen=True)
class StepContext:
    """What a method knows in every step of a training.

    ``teacher`` maps weak views (N, 3, H, W) to logits (N, K), in eval mode and without gradient.
    ``batch_norm``: the student's output for an image depends on the images beside it.
    """

    recipe: Recipe
    num_classes: int
    shard: RankShard
    teacher: Callable[[torch.Tensor], torch.Tensor]
    batch_norm: bool = False


@dataclass(frozen=True)
class TargetRows:
    """Images (R, 3, H, W) with soft targets (R, K) and weights (R,); their loss is Σ weight · CE.

    The loss counts ``factor`` times in the method's (λ_u). ``numbers`` (R,), on the CPU, number
    the rows within the step over all ranks.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    numbers: torch.Tensor
    factor: float = 1.0

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class StepTargets:
    """What this rank's student learns from in a step; the method's loss is Σ factor · weight · CE.

    ``averages`` are values to average over ranks and steps; ``pseudo_counts`` (K,) among them
    counts the pseudo labels of each class over all ranks.
    """

    labeled: TargetRows
    unlabeled: TargetRows | None = None
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
