"""What all methods share: a step's images, its targets, and how the ranks share its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from semigrid.trainers.recipe import SteppedRecipe

if TYPE_CHECKING:
    import torch

    from semigrid.data.views.augment import ViewName

    # Makes bytes (R, 3, H, W) of one view into what a network is shown; the second argument is
    # what is erased of each (R, 5), the third the numbers of those to be erased, all if None.
    Finish = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

R = TypeVar("R", bound=SteppedRecipe, covariant=True)


class Views(Mapping["ViewName", "torch.Tensor"]):
    """One rank's images of a step: ``views[name]`` are normalised float32 (B, 3, H, W).

    A view is made ready when it is first asked for. Until then it is bytes, and rows that other
    ranks need travel as such: see ``fetch``.

    Args:
        images: by the views' names, (B, 3, H, W).
        finish: for each view, makes its bytes ready; a view without one is as it should be.
        erasures: what ``finish`` erases of each image, (B, 5), on the device.
        erased: the numbers of the images of which anything is erased, (R,), on the device.
    """

    def __init__(
        self,
        images: Mapping[ViewName, torch.Tensor],
        finish: Mapping[ViewName, Finish] | None = None,
        erasures: torch.Tensor | None = None,
        erased: torch.Tensor | None = None,
    ):
        self._images, self._finish = images, finish or {}
        self._erasures, self._erased = erasures, erased
        self._ready: dict[ViewName, torch.Tensor] = {}

    def __getitem__(self, name: ViewName) -> torch.Tensor:
        if name not in self._ready:
            images = self._images[name]
            if name in self._finish:
                assert self._erasures is not None
                images = self._finish[name](images, self._erasures, self._erased)
            self._ready[name] = images
        return self._ready[name]

    def __iter__(self) -> Iterator[ViewName]:
        return iter(self._images)

    def __len__(self) -> int:
        return len(self._images)

    def fetch(
        self, name: ViewName, wanted: Sequence[torch.Tensor], shard: RankShard
    ) -> torch.Tensor:
        """Rows of a view of the global batch, ready, as ``RankShard.fetch`` returns rows.

        Between ranks they travel as bytes, a quarter of what they are when they are ready.
        """
        if shard.world_size == 1 or name not in self._finish:
            return shard.fetch(self[name], wanted)
        assert self._erasures is not None
        images = shard.fetch(self._images[name], wanted)
        return self._finish[name](images, shard.fetch(self._erasures, wanted), None)


@dataclass(frozen=True)
class StepInput:
    """One rank's part of a step, on its device.

    ``labeled`` has the views (B, 3, H, W) that the method asks for, by their names, and ``y`` (B,)
    the labels; ``pool`` has the views (μB, 3, H, W) of the unlabelled images, None without a pool.
    ``draws`` are what the method's ``draws`` drew, for the whole global batch, alike on all ranks.
    ``soft_targets`` (μB, K) are the teachers' mean probabilities for these, where the method has
    such; a row of zeros for an image that no teacher could be shown.
    """

    labeled: Views
    y: torch.Tensor
    pool: Views | None = None
    soft_targets: torch.Tensor | None = None
    draws: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RankShard:
    """This rank's share of the global batch.

    ``fetch(rows, wanted)`` returns rows of the global batch from whichever ranks hold them:
    ``rows`` are this rank's own, ``wanted[r]`` the global row numbers that rank r asks for. With
    several ranks these are on the CPU: how many rows each one sends has to be known there.
    """

    fetch: Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]
    rank: int
    world_size: int
    device: torch.device | str = "cpu"

    def deal(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Global row numbers dealt to the ranks in order, as evenly as they divide."""
        return list(numbers.tensor_split(self.world_size))

    def everywhere(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of the whole global batch, on every rank; ``rows`` are this rank's own."""
        import torch

        if self.world_size == 1:
            return rows
        return self.fetch(rows, [torch.arange(len(rows) * self.world_size)] * self.world_size)

    def own_numbers(self, rows: int, after: int = 0) -> torch.Tensor:
        """The numbers within the step of this rank's ``rows`` rows, (rows,).

        All ranks have as many; ``after`` is how many rows of each rank are numbered before them.
        """
        import torch

        first = self.rank * rows + after * self.world_size
        return torch.arange(first, first + rows, device=self.device)


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
    has several. ``numbers`` (R,) number the rows within the step over all ranks.
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
