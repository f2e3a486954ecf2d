"""Semi-supervised fine-tuning with an EMA teacher and probabilistic pseudo mixup (Semi-ViT).

arXiv 2208.05688; docs/methods.md §4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semigrid.trainers.methods import finetune, pseudo_labels
from semigrid.trainers.methods.method import Space, Stepped
from semigrid.trainers.methods.pseudo_labels import (
    PseudoLabelRecipe,
    answers,
    averages,
    rows_to_train,
    unlabeled_rows,
)
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets

if TYPE_CHECKING:
    import torch


class SemiRecipe(finetune.FinetuneRecipe, PseudoLabelRecipe):
    """Settings of mixing and of pseudo labels, beside the shared ones."""


def search_space(recipe: SemiRecipe) -> Space:
    """That of ``finetune``, τ ± 0.2 and half to twice λ_u."""
    return finetune.search_space(recipe) | pseudo_labels.search_space(recipe)


def draws(
    recipe: SemiRecipe, labeled: int, pool: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """How the labelled batch is mixed and how the pool's is."""
    from semigrid.trainers.methods.mixup import draw_pseudo_mix

    of_labeled = finetune.draws(recipe, labeled, pool, generator)
    mix = draw_pseudo_mix(generator, pool, recipe.mix_groups)
    return of_labeled | {f"pool_{name}": drawn for name, drawn in vars(mix).items()}


def step_targets(step: StepInput, context: StepContext[SemiRecipe]) -> StepTargets:
    """L = L_x + λ_u L_u, with L_u = (1/μB) Σ 1[p'_i ≥ τ] · CE(s(u'_i), y'_i).

    Masked images have weight 0, and are left out of the rows where that changes no number; the
    rows that stay are dealt to the ranks anew, so that none waits for one that kept more.
    """
    import torch

    from semigrid.trainers.methods.mixup import pseudo_mix, smooth_one_hot

    assert step.pool is not None
    recipe, shard, drawn = context.recipe, context.shard, step.draws
    p, labels = answers(step.pool["weak"], context)

    labeled = finetune.mixed_rows(step, context)
    pi = drawn["pool_permutation"]
    mask = torch.maximum(p, p[pi]) >= recipe.confidence_threshold
    i, wanted = rows_to_train(mask, context, pi)
    j = pi[i]

    u_i, u_j = step.pool.fetch("strong", wanted, shard).tensor_split(2)
    y = smooth_one_hot(labels, context.num_classes, recipe.label_smoothing)
    how = drawn["pool_use_cutmix"][i], drawn["pool_centers"][i]
    u, y = pseudo_mix(u_i, u_j, y[i], y[j], p[i], p[j], *how)
    unlabeled = unlabeled_rows(u, y, mask[i], i, step, context)
    return StepTargets([labeled, unlabeled], averages(mask, labels, context))


SEMI = Stepped(
    name="semi",
    summary="trained semi-supervised (as Semi-ViT is)",
    recipe=SemiRecipe,
    pool="required",
    parent="required",
    published={
        "transformer": {"batch_size": 128, "base_lr": 1e-3, "layer_decay": 0.75},
        "convnet": finetune.PUBLISHED_CONVNET | {"batch_size": 128},
    },
    presets={
        "semivit-1pct": ("transformer", finetune.UNMIXED | {"confidence_threshold": 0.6}),
    },
    search_space=search_space,
    forwards_per_step=pseudo_labels.forwards_per_step,
    draws=draws,
    step_targets=step_targets,
    teacher=lambda recipe: "ema",
    rehearsed=pseudo_labels.REHEARSED,
    measures=pseudo_labels.measures,
    health=pseudo_labels.collapse,
    pool_unused=pseudo_labels.pool_unused,
)
