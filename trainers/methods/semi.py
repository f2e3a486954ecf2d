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
    numbers_to_train,
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


def step_targets(
    step: StepInput, context: StepContext[SemiRecipe], draw: torch.Generator
) -> StepTargets:
    """L = L_x + λ_u L_u, with L_u = (1/μB) Σ 1[p'_i ≥ τ] · CE(s(u'_i), y'_i).

    Masked images have weight 0, and are left out of the rows where that changes no number; the
    rows that stay are dealt to the ranks anew, so that none waits for one that kept more.
    """
    import torch

    from semigrid.trainers.methods.mixup import draw_pseudo_mix, pseudo_mix, smooth_one_hot

    assert step.pool is not None
    recipe, shard, weak = context.recipe, context.shard, step.pool["weak"]
    device, size = weak.device, len(weak) * shard.world_size
    p, labels = answers(weak, context)

    labeled = finetune.mixed_rows(step, context, draw)
    mix = draw_pseudo_mix(draw, size)
    pi = mix.permutation.to(device)
    mask = torch.maximum(p, p[pi]) >= recipe.confidence_threshold
    dealt = shard.deal(numbers_to_train(mask.cpu(), context))
    mine = dealt[shard.rank]
    i, j = mine.to(device), pi[mine.to(device)]

    pairs = shard.fetch(step.pool["strong"], [torch.cat([n, mix.permutation[n]]) for n in dealt])
    u_i, u_j = pairs.tensor_split(2)
    y = smooth_one_hot(labels, context.num_classes, recipe.label_smoothing)
    use_cutmix, centers = mix.use_cutmix[mine].to(device), mix.centers[mine].to(device)
    u, y = pseudo_mix(u_i, u_j, y[i], y[j], p[i], p[j], use_cutmix, centers)
    unlabeled = unlabeled_rows(u, y, mask[i], mine, step, context)
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
    step_targets=step_targets,
    teacher=lambda recipe: "ema",
    rehearsed=pseudo_labels.REHEARSED,
    measures=pseudo_labels.measures,
    health=pseudo_labels.collapse,
    pool_unused=pseudo_labels.pool_unused,
)
