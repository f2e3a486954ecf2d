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
    mix_groups: int = Field(
        8, gt=0, le=1024, description="partners are of one of so many parts of a batch, at most"
    )


def search_space(recipe: SteppedRecipe) -> Space:
    """Half to twice the learning rate (MAE's search) and the weight decay."""
    return {
        "base_lr": (recipe.base_lr / 2, recipe.base_lr * 2),
        "weight_decay": (recipe.weight_decay / 2, recipe.weight_decay * 2),
    }


def draws(
    recipe: FinetuneRecipe, labeled: int, pool: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """How the labelled batch is mixed; nothing where it is not."""
    from semigrid.trainers.methods.mixup import draw_labeled_mix

    mix = draw_labeled_mix(generator, recipe.mixup, recipe.cutmix)
    return {} if mix is None else vars(mix)


def mixed_rows(step: StepInput, context: StepContext[FinetuneRecipe]) -> TargetRows:
    """L_x: label smoothing, then mixup or CutMix of each image with its mirror in its group."""
    from semigrid.trainers.methods.mixup import LabeledMix, mix_labeled

    rows = labeled_rows(step.labeled["strong"], step.y, context)
    if "lam" not in step.draws:
        return rows
    mix = LabeledMix(*(step.draws[name] for name in ("use_cutmix", "lam", "center")))
    x, y = rows.images, rows.targets
    x, y = mix_labeled(x, y, mirrored(x, context), mirrored(y, context), mix)
    return replace(rows, images=x, targets=y)


def mirrored(rows: torch.Tensor, context: StepContext[FinetuneRecipe]) -> torch.Tensor:
    """The partner of each of this rank's rows: as far from the end of its group."""
    import torch

    from semigrid.trainers.methods.mixup import group_count

    shard = context.shard
    total = len(rows) * shard.world_size
    size = total // group_count(total, context.recipe.mix_groups)
    if len(rows) % size == 0:  # this rank has whole groups
        return rows.reshape(-1, size, *rows.shape[1:]).flip(1).reshape(rows.shape)
    numbers = torch.arange(total).reshape(-1, size).flip(1).flatten()
    return shard.fetch(rows, shard.deal(numbers))


def step_targets(step: StepInput, context: StepContext[FinetuneRecipe]) -> StepTargets:
    """L = L_x, the soft cross-entropy of the mixed labelled batch."""
    return StepTargets([mixed_rows(step, context)])


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
    draws=draws,
    step_targets=step_targets,
)
