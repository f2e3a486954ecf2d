"""What a method says of itself; the rest of the program asks for this, never for its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from semigrid.trainers.backbones import Family
from semigrid.trainers.methods.step import MethodState, StepContext, StepInput, StepTargets
from semigrid.trainers.recipe import PoolRecipe, Recipe, SteppedRecipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from semigrid.data.views.augment import ViewName
    from semigrid.trainers.evaluation.predictions import Predictions

R = TypeVar("R", bound=Recipe)
S = TypeVar("S", bound=SteppedRecipe)

Need = Literal["none", "optional", "required"]
# the networks of a training: the one that learns, and the average of its weights
NetworkName = Literal["student", "ema"]
# hyper-parameters and the ranges to search them in
Space = dict[str, tuple[float, float]]
# losses and scores at the evaluations of a training, in order
History = Sequence[Mapping[str, float]]


def never_unused(history: History) -> str | None:
    """Whatever pool there is counts as used."""
    return None


@dataclass(frozen=True, kw_only=True)
class Method(Generic[R]):
    """What all methods say: what they need, their settings and their search.

    How it learns is a subclass's: ``Stepped`` takes steps in the training loop, ``Fitted`` fits a
    head to features of a frozen backbone.

    Attributes:
        name: as experiment files write it.
        version: raised by whoever changes the numbers that an equal recipe gives; it is part of
            every trial's identity.
        summary: past participle for descriptions of a model: "trained …".
        recipe: its settings, which extend ``SteppedRecipe`` where it takes steps, ``PoolRecipe``
            where it has a pool, else ``Recipe``.
        pool: whether it learns from unlabelled images. Epochs are passes over them then. Where the
            pool is optional, a cell with ``unlabeled:`` has one.
        parent: whether it starts from a trained model rather than from a backbone.
        parents: the methods whose trained models it may start from; these learn without a pool.
        soft_targets: whether each pool image comes with what other models say of it: the mean
            probabilities of those that the file names in ``from:``, in ``StepInput``. It starts
            from a backbone of its own.
        control: the method that trains on the same labels without the pool, for as many forwards:
            what remains of its advantage is the pool's. Of a model with a parent, the control is
            the parent's method and recipe.
        published: for each family of backbones, the values that differ from the recipe's defaults.
        presets: other published recipes by name: the family of backbones that each is for, and
            the values that differ from the family's ``published``.
        pool_unused: why a training has learnt next to nothing from its pool; None if it has learnt.
        search_space: the default ranges around a recipe's own values. A method with nothing to
            search has one trial in each cell.
    """

    name: str
    version: int = 1
    summary: str = "trained"
    recipe: type[R]
    pool: Need = "none"
    parent: Need = "optional"
    parents: tuple[str, ...] = ("finetune",)
    soft_targets: bool = False
    control: str = "finetune"
    published: Mapping[Family, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, tuple[Family, Mapping[str, Any]]] = field(default_factory=dict)
    search_space: Callable[[R], Space]
    pool_unused: Callable[[History], str | None] = never_unused

    def __post_init__(self) -> None:
        if (self.pool != "none") != issubclass(self.recipe, PoolRecipe):
            raise TypeError(
                f"method {self.name}: pool is {self.pool}, and {self.recipe.__name__} "
                f"{'extends' if self.pool == 'none' else 'does not extend'} PoolRecipe"
            )
        if self.soft_targets and (self.pool, self.parent) != ("required", "none"):
            raise TypeError(
                f"method {self.name}: soft_targets are those of a pool, for a student that starts "
                "from a backbone: let pool be required, and parent none"
            )


def no_preparation(model: nn.Module, recipe: Recipe) -> None:
    """The model is trained as it comes."""


def no_measures(predictions: Predictions, recipe: Recipe) -> dict[str, float]:
    """Scores say it all."""
    return {}


def never_sick(history: History, recipe: Recipe, natural_entropy: float) -> str | None:
    """Nothing but a loss that is not finite ends a training."""
    return None


def no_draws(
    recipe: SteppedRecipe, labeled: int, pool: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Nothing of a step is random."""
    return {}


def all_images(recipe: SteppedRecipe, with_pool: bool) -> int:
    """Each image of a step is one row."""
    pool = recipe.pool_batch_size if with_pool and isinstance(recipe, PoolRecipe) else 0
    return recipe.batch_size + pool


@dataclass(frozen=True, kw_only=True)
class Stepped(Method[S]):
    """A method that learns step by step, in the training loop.

    Attributes:
        forwards_per_step: forwards of one image in a step, over all ranks; a backward counts two.
            The second argument is whether there is a pool.
        draws: the random numbers of a step, as tensors by names, for so many labelled and
            unlabelled images over all ranks (0 without a pool). The generator is on the CPU and
            seeded alike on all ranks. They are drawn while an earlier step trains, and lie on the
            device, in ``StepInput.draws``, when they are asked for.
        step_targets: makes a step's images into targets, once in each step. It draws nothing, and
            reads no tensor back from the device if it can: the device would wait for the host.
        labeled_views, pool_views: the views that a step needs of its images.
        teacher: the network that answers ``StepContext.teacher``; None where nothing asks it.
        prepare: changes a model before it is trained, such as freezing a part of it. It is in train
            mode; modules that are put in eval mode stay so. Names and shapes of its weights stay.
        state: makes what it keeps from step to step, of a recipe, the number of classes and the
            device; it is in ``StepContext.state`` and in every checkpoint. Around it and
            ``prepare``, torch's random numbers are seeded alike on all ranks.
        rehearsed: values of its settings with which a step of any two images has all its rows: the
            step before a run that shows what would fail in it.
        rows_per_step: most rows that it makes in a step, over all ranks, with or without a pool.
        measures: what else an evaluation records, of what ``teacher`` answers for val, with
            the logit adjustment, as in a step: finite numbers under names of its own. What cannot
            be told is left out.
        health: why a training leads to nothing and is ended, after each evaluation; None if it
            goes on. The last argument is the entropy in nats of the classes of val.
    """

    forwards_per_step: Callable[[S, bool], int]
    step_targets: Callable[[StepInput, StepContext[S]], StepTargets]
    draws: Callable[[S, int, int, torch.Generator], Mapping[str, torch.Tensor]] = no_draws
    labeled_views: tuple[ViewName, ...] = ("strong",)
    pool_views: tuple[ViewName, ...] = ("weak", "strong")
    teacher: Callable[[S], NetworkName] | None = None
    prepare: Callable[[nn.Module, S], None] = no_preparation
    state: Callable[[S, int, torch.device], MethodState] | None = None
    rehearsed: Mapping[str, Any] = field(default_factory=dict)
    rows_per_step: Callable[[S, bool], int] = all_images
    measures: Callable[[Predictions, S], Mapping[str, float]] = no_measures
    health: Callable[[History, S, float], str | None] = never_sick

    def __post_init__(self) -> None:
        super().__post_init__()
        if not issubclass(self.recipe, SteppedRecipe):
            raise TypeError(
                f"method {self.name}: {self.recipe.__name__} does not extend SteppedRecipe"
            )

    def forwards(self, recipe: S, with_pool: bool) -> int:
        """Forwards of one image in a whole training."""
        return self.forwards_per_step(recipe, with_pool) * recipe.total_steps


class Head(Protocol):
    """A linear head: logits are features (N, D) @ ``weight`` (D, K) + ``bias`` (K,)."""

    @property
    def weight(self) -> np.ndarray: ...

    @property
    def bias(self) -> np.ndarray: ...

    @property
    def measures(self) -> Mapping[str, float]:
        """What the record keeps of it beside the scores."""


@dataclass(frozen=True, kw_only=True)
class Fitted(Method[R]):
    """A method that fits a head to one vector an image, made once by a frozen backbone.

    Attributes:
        fit: a head for features (N, D), class indices (N,) and groups by number (N,). The order of
            the images is seeded; the last argument, (K,), is what each class counts in a score.
    """

    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Head]
