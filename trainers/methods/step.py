"""What all methods share: a step's images, its targets, and how the ranks share its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from semigrid.trainers.recipe import SteppedRecipe

if TYPE_CHECKING:
    import torch

    from semigrid.data.views.augment import ViewName

R = TypeVar("R", bound=SteppedRecipe, covariant=True)


@dataclass(frozen=True)
class StepInput:
    """One rank's images of a step, normalised float32 on its device.

    ``labeled`` has the views (B, 3, H, W) that the method asks for, by their names, and ``y`` (B,)
    the labels; ``pool`` has the views (μB, 3, H, W) of the unlabelled images, None without a pool.
    ``soft_targets`` (μB, K) are the teachers' mean probabilities for these, where the method has
    such; a row of zeros for an image that no teacher could be shown.
    """

    labeled: Mapping[ViewName, torch.Tensor]
    y: torch.Tensor
    pool: Mapping[ViewName, torch.Tensor] | None = None
    soft_targets: torch.Tensor | None = None


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

    def own_numbers(self, rows: int, after: int = 0) -> torch.Tensor:
        """The numbers within the step of this rank's ``rows`` rows, (rows,), on the CPU.

        All ranks have as many; ``after`` is how many rows of each rank are numbered before them.
        """
        import torch

        return torch.arange(rows) + self.rank * rows + after * self.world_size


class MethodState(Protocol):
    """What a method keeps from step to step; an ``nn.Module`` is one.

    All ranks must have the same: whatever enters it is fetched from all of them first.
    ``state_dict`` holds tensors, numbers, text, lists and dicts, and goes into the checkpoints.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class StepContext(Generic[R]):
    """What a method knows in every step of a training.

    ``teacher`` maps weak views (N, 3, H, W) to logits (N, K), in eval mode and without gradient.
    ``batch_norm``: the student's output for an image depends on the images beside it. ``state`` is
    what the method's own ``state`` made.
    """

    recipe: R
    num_classes: int
    shard: RankShard
    teacher: Callable[[torch.Tensor], torch.Tensor]
    batch_norm: bool = False
    state: Any = None


@dataclass(frozen=True)
class TargetRows:
    """Images (R, 3, H, W) with soft targets (R, K) and weights (R,); their loss is Σ weight · CE.

    The cross-entropy is that of the logits divided by the ``temperature``.
    The loss counts ``factor`` times in the method's (λ_u), and is recorded as ``loss`` where a step
    has several. ``numbers`` (R,), on the CPU, number the rows within the step over all ranks.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    numbers: torch.Tensor
    factor: float = 1.0
    loss: str = "labeled_loss"
    temperature: Any = 1.0

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class StepTargets:
    """What this rank's student learns from in a step; the loss is Σ factor · weight · CE.

    Every step has the same rows by their names, of which the first are never empty. ``averages``
    are values to average over ranks and steps; ``pseudo_counts`` (K,) among them counts the pseudo
    labels of each class over all ranks.
    """

    rows: Sequence[TargetRows]
    averages: dict[str, torch.Tensor] = field(default_factory=dict)
