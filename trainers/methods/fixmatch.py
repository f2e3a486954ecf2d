"""FixMatch (Sohn et al. 2020, arXiv 2001.07685): learn the confident answers of weak views.

docs/methods.md §7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from semigrid.trainers.methods import finetune, pseudo_labels
from semigrid.trainers.methods.method import Space, Stepped
from semigrid.trainers.methods.pseudo_labels import (
    PseudoLabelRecipe,
    answers,
    averages,
    rows_to_train,
    unlabeled_rows,
)
from semigrid.trainers.methods.rows import labeled_rows
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets

if TYPE_CHECKING:
    pass

# B, μ, τ and λ_u of its table 4; cross-entropy with hard labels
PUBLISHED: dict[str, Any] = {
    "batch_size": 64,
    "unlabeled_ratio": 7,
    "confidence_threshold": 0.95,
    "unlabeled_loss_weight": 1.0,
    "label_smoothing": 0.0,
}
# Strong views must be harder than weak ones, in convolutional networks, too.
STRONG: dict[str, Any] = {"rand_augment": "rand-m9-mstd0.5-inc1", "erase_prob": 0.25}


class FixmatchRecipe(PseudoLabelRecipe):
    """Settings of pseudo labels, and who makes them, beside the shared ones."""

    teacher: Literal["student", "ema"] = "student"


def search_space(recipe: FixmatchRecipe) -> Space:
    """Learning rate and weight decay as for ``finetune``, τ down by 0.2, half to twice λ_u."""
    return finetune.search_space(recipe) | pseudo_labels.search_space(recipe)


def step_targets(step: StepInput, context: StepContext[FixmatchRecipe]) -> StepTargets:
    """L = L_x + λ_u L_u, with L_u = (1/μB) Σ 1[max q_i ≥ τ] · CE(s(strong u_i), argmax q_i).

    q is the answer for the weak view, in eval mode and without gradient; labelled images are seen
    weakly. Nothing is drawn here.
    """
    from semigrid.trainers.methods.mixup import smooth_one_hot

    assert step.pool is not None
    recipe = context.recipe
    p, labels = answers(step.pool["weak"], context)
    mask = p >= recipe.confidence_threshold
    i, wanted = rows_to_train(mask, context)
    y = smooth_one_hot(labels[i], context.num_classes, recipe.label_smoothing)
    u = step.pool.fetch("strong", wanted, context.shard)
    labeled = labeled_rows(step.labeled["weak"], step.y, context)
    unlabeled = unlabeled_rows(u, y, mask[i], i, step, context)
    return StepTargets([labeled, unlabeled], averages(mask, labels, context))


FIXMATCH = Stepped(
    name="fixmatch",
    summary="trained semi-supervised (by FixMatch)",
    recipe=FixmatchRecipe,
    pool="required",
    labeled_views=("weak",),
    published={
        "transformer": PUBLISHED,
        "convnet": finetune.PUBLISHED_CONVNET | PUBLISHED | STRONG,
    },
    search_space=search_space,
    forwards_per_step=pseudo_labels.forwards_per_step,
    step_targets=step_targets,
    teacher=lambda recipe: recipe.teacher,
    rehearsed=pseudo_labels.REHEARSED,
    measures=pseudo_labels.measures,
    health=pseudo_labels.collapse,
    pool_unused=pseudo_labels.pool_unused,
)
