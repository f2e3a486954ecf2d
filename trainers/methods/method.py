"""What a method says of itself; the rest of the program asks for this, never for its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from semigrid.trainers.backbones import Family
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets
from semigrid.trainers.recipe import Recipe

if TYPE_CHECKING:
    import torch

MethodName = Literal["finetune", "semi"]
# hyper-parameters and the ranges to search them in
Space = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Method:
    """How a training learns: what it needs, its recipes, its search, its steps.

    Attributes:
        name: as experiment files write it.
        summary: past participle for descriptions of a model: "trained …".
        parents: the methods whose trained models it may start from.
        needs_parent: whether it starts from such a model always, never from a backbone.
        needs_pool: whether it learns from unlabelled images; its epochs are passes over them then.
        uses_pseudo_labels: whether the teacher labels images, so that it can collapse.
        own_settings: fields of ``Recipe`` that no other method reads.
        published: for each family of backbones, the values that differ from ``Recipe``'s defaults.
        presets: other published recipes by name: the family of backbones that each is for, and
            the values that differ from the family's ``published``.
        search_space: the default ranges around a recipe's own values.
        forwards_per_step: forwards of one image in a step, over all ranks; a backward counts two.
        step_targets: makes a step's images into targets; ``draw`` is seeded alike on all ranks.
    """

    name: MethodName
    summary: str
    parents: tuple[MethodName, ...]
    needs_parent: bool
    needs_pool: bool
    uses_pseudo_labels: bool
    own_settings: frozenset[str]
    published: Mapping[Family, Mapping[str, Any]]
    presets: Mapping[str, tuple[Family, Mapping[str, Any]]]
    search_space: Callable[[Recipe], Space]
    forwards_per_step: Callable[[Recipe], int]
    step_targets: Callable[[StepInput, StepContext, torch.Generator], StepTargets]
