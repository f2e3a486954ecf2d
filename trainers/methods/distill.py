"""Distillation of one or several finished models into a student of any backbone.

Hinton et al. 2015 (arXiv 1503.02531), on unlabelled images as SimCLRv2 does it (2006.10029, §2);
docs/methods.md §9.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from semigrid.trainers.methods import finetune
from semigrid.trainers.methods.method import History, Space, Stepped
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets, TargetRows
from semigrid.trainers.recipe import PoolRecipe

if TYPE_CHECKING:
    pass

# Soft targets that say less than this share of what a certain answer says teach nothing.
UNUSED_CERTAINTY = 0.01


class DistillRecipe(finetune.FinetuneRecipe, PoolRecipe):
    """Settings of mixing and of the soft targets, beside the shared ones."""

    unlabeled_loss_weight: float = Field(1.0, ge=0)
    temperature: float = Field(1.0, gt=0, le=100, description="of the soft targets and student")


def search_space(recipe: DistillRecipe) -> Space:
    """That of ``finetune``, and half to twice λ_u."""
    weight = recipe.unlabeled_loss_weight
    return finetune.search_space(recipe) | {"unlabeled_loss_weight": (weight / 2, weight * 2)}


def step_targets(step: StepInput, context: StepContext[DistillRecipe]) -> StepTargets:
    """L = L_x + λ_u T² (1/μB) Σ CE(s(u_i) / T, q_i), q_i ∝ p_i^(1/T), p_i the teachers' mean.

    The gradient of CE is that of KL(q_i ‖ s(u_i)): they differ by the entropy of q_i.
    """
    import torch

    assert step.pool is not None and step.soft_targets is not None
    recipe, images, p = context.recipe, step.pool["strong"], step.soft_targets
    q = p ** (1 / recipe.temperature)
    # a row of zeros, of an image that no teacher could be shown, stays one: it teaches nothing
    q = q / q.sum(dim=1, keepdim=True).clamp(min=torch.finfo(q.dtype).tiny)
    labeled = finetune.mixed_rows(step, context)
    pool = TargetRows(
        images,
        q,
        images.new_full((len(images),), 1 / len(images)),
        context.shard.own_numbers(len(images), after=len(step.y)),
        recipe.unlabeled_loss_weight * recipe.temperature**2,
        loss="unlabeled_loss",
        temperature=recipe.temperature,
    )
    certainty = 1 - torch.special.entr(p).sum(dim=1).mean() / math.log(context.num_classes)
    return StepTargets([labeled, pool], {"soft_target_certainty": certainty})


def pool_unused(history: History) -> str | None:
    """Why soft targets have taught next to nothing; None if they have taught something.

    Their certainty is 1 − H(p) / log K: 1 of an answer without doubt, 0 of a guess.
    """
    certainties = [record["soft_target_certainty"] for record in history]
    if not certainties or sum(certainties) / len(certainties) >= UNUSED_CERTAINTY:
        return None
    return (
        f"the teachers' answers for the pool say under {UNUSED_CERTAINTY:.0%} of what certain ones "
        "would: they guess, so the labelled images alone made these scores; distil models that "
        "have learnt"
    )


# a step has as many images as one of ``semi``, whose values these are
PUBLISHED: dict[str, Any] = {"batch_size": 128, "base_lr": 1e-3, "layer_decay": 0.75}

DISTILL = Stepped(
    name="distill",
    summary="distilled from other models",
    recipe=DistillRecipe,
    pool="required",
    parent="none",
    soft_targets=True,
    pool_views=("strong",),
    published={
        "transformer": PUBLISHED,
        "convnet": finetune.PUBLISHED_CONVNET | {"batch_size": 128},
    },
    search_space=search_space,
    forwards_per_step=lambda recipe, with_pool: 3 * (recipe.batch_size + recipe.pool_batch_size),
    draws=finetune.draws,
    step_targets=step_targets,
    pool_unused=pool_unused,
)
