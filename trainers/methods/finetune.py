"""Supervised fine-tuning, as MAE does it (docs/methods.md §3)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from semigrid.trainers.methods.method import Space, Stepped
from semigrid.trainers.methods.rows import labeled_rows
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets, TargetRows
from semigrid.trainers.recipe import SteppedRecipe

if TYPE_CHECKING:
    import torch

PUBLISHED_CONVNET: dict[str, Any] = {
    "optimizer": "sgd",
    "base_lr": 0.01,
    "weight_decay": 1e-4,
    "decay_one_dimensional": True,
    "layer_decay": 1.0,
    "epochs": 90,
    "batch_size": 256,
    "drop_path": 0.0,
    "erase_prob": 0.0,
    "rand_augment": "",
    "global_pool": None,
    "head_std": None,
}

# Semi-ViT on 1 % of ImageNet's labels (arXiv 2208.05688, and its published commands for ViT-Base):
# no mixing of labelled images, no erasing, no drop path
UNMIXED: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0, "erase_prob": 0.0, "drop_path": 0.0}


class FinetuneRecipe(SteppedRecipe):
    """Settings of mixing, beside the shared ones."""

    mixup: float = Field(0.8, ge=0, description="α; 0 switches it off")
    cutmix: float = Field(1.0, ge=0, description="α; 0 switches it off")


def search_space(recipe: SteppedRecipe) -> Space:
    """Half to twice the learning rate (MAE's search) and the weight decay."""
    return {
        "base_lr": (recipe.base_lr / 2, recipe.base_lr * 2),
        "weight_decay": (recipe.weight_decay / 2, recipe.weight_decay * 2),
    }


def mixed_rows(
    step: StepInput, context: StepContext[FinetuneRecipe], draw: torch.Generator
) -> TargetRows:
    """L_x: label smoothing, then mixup or CutMix of each image with its mirror in the batch."""
    import torch

    from semigrid.trainers.methods.mixup import draw_labeled_mix, mix_labeled

    recipe, shard = context.recipe, context.shard
    rows = labeled_rows(step.labeled["strong"], step.y, context)
    mix = draw_labeled_mix(draw, recipe.mixup, recipe.cutmix)
    if mix is None:
        return rows
    x, y = rows.images, rows.targets
    mirrored = shard.deal(torch.arange(len(x) * shard.world_size - 1, -1, -1))
    x, y = mix_labeled(x, y, shard.fetch(x, mirrored), shard.fetch(y, mirrored), mix)
    return replace(rows, images=x, targets=y)


def step_targets(
    step: StepInput, context: StepContext[FinetuneRecipe], draw: torch.Generator
) -> StepTargets:
    """L = L_x, the soft cross-entropy of the mixed labelled batch."""
    return StepTargets([mixed_rows(step, context, draw)])


FINETUNE = Stepped(
    name="finetune",
    recipe=FinetuneRecipe,
    parents=("finetune", "probe"),
    published={"transformer": {}, "convnet": PUBLISHED_CONVNET},
    presets={
        "semivit-1pct": ("transformer", UNMIXED | {"base_lr": 5e-5, "batch_size": 512}),
    },
    search_space=search_space,
    forwards_per_step=lambda recipe, with_pool: 3 * recipe.batch_size,
    step_targets=step_targets,
)
