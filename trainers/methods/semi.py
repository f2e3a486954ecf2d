"""Semi-supervised fine-tuning with an EMA teacher and probabilistic pseudo mixup (Semi-ViT).

arXiv 2208.05688; docs/methods.md §4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semigrid.trainers.methods import finetune
from semigrid.trainers.methods.method import Method, Space
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets, TargetRows
from semigrid.trainers.recipe import Recipe

if TYPE_CHECKING:
    import torch


def search_space(recipe: Recipe) -> Space:
    """That of ``finetune``, τ ± 0.2 and half to twice λ_u."""
    tau, weight = recipe.confidence_threshold, recipe.unlabeled_loss_weight
    return finetune.search_space(recipe) | {
        "confidence_threshold": (max(0.0, tau - 0.2), min(0.95, tau + 0.2)),
        "unlabeled_loss_weight": (weight / 2, weight * 2),
    }


def forwards_per_step(recipe: Recipe) -> int:
    """Training on all images, and the teacher's forward of the unlabelled ones."""
    return 3 * recipe.batch_size + 4 * recipe.pool_batch_size


def step_targets(step: StepInput, context: StepContext, draw: torch.Generator) -> StepTargets:
    """L = L_x + λ_u L_u, with L_u = (1/μB) Σ 1[p'_i ≥ τ] · CE(s(u'_i), y'_i).

    L_u divides by the number of all unlabelled images, masked ones included (FixMatch, eq. 4).
    Masked images have weight 0, and are left out of the rows where that changes no number; the
    rows that stay are dealt to the ranks anew, so that none waits for one that kept more.
    """
    import torch

    from semigrid.trainers.methods.mixup import draw_pseudo_mix, pseudo_mix, smooth_one_hot

    assert step.weak is not None and step.strong is not None
    recipe, shard = context.recipe, context.shard
    device, size = step.weak.device, len(step.weak) * shard.world_size
    # p and ŷ of the whole batch on every rank: (μB,) of the global batch
    p, pseudo_labels = context.teacher(step.weak).float().softmax(dim=1).max(dim=1)
    everywhere = [torch.arange(size)] * shard.world_size
    p, pseudo_labels = shard.fetch(p, everywhere), shard.fetch(pseudo_labels, everywhere)

    labeled = finetune.labeled_rows(step, context, draw)
    mix = draw_pseudo_mix(draw, size)
    pi = mix.permutation.to(device)
    mask = torch.maximum(p, p[pi]) >= recipe.confidence_threshold
    dealt = shard.deal(_numbers_to_train(mask.cpu(), context))
    mine = dealt[shard.rank]
    i, j = mine.to(device), pi[mine.to(device)]

    pairs = shard.fetch(step.strong, [torch.cat([n, mix.permutation[n]]) for n in dealt])
    u_i, u_j = pairs.tensor_split(2)
    y = smooth_one_hot(pseudo_labels, context.num_classes, recipe.label_smoothing)
    use_cutmix, centers = mix.use_cutmix[mine].to(device), mix.centers[mine].to(device)
    u, y = pseudo_mix(u_i, u_j, y[i], y[j], p[i], p[j], use_cutmix, centers)
    # DDP averages the ranks' gradients: each weighs its rows as if they were of its own batch
    weights = mask[i].float() / len(step.weak)
    first = len(step.x) * shard.world_size
    unlabeled = TargetRows(u, y, weights, first + mine, recipe.unlabeled_loss_weight)
    counts = torch.bincount(pseudo_labels, minlength=context.num_classes)
    averages = {"mask_rate": mask.float().mean(), "pseudo_counts": counts}
    return StepTargets(labeled, unlabeled, averages)


def _numbers_to_train(mask: torch.Tensor, context: StepContext) -> torch.Tensor:
    """Sorted global numbers of the unlabelled images that pass through the students.

    Leaving images out changes the batch statistics of those that stay, so models with batch
    normalisation keep all unless the recipe says otherwise. If they leave images out and any is
    left, every rank gets two, masked ones if need be: one image has no batch statistics, and a
    rank without any would not take part in those of the others.
    """
    import torch

    skip = context.recipe.skip_masked
    if skip is None:
        skip = not context.batch_norm
    if not skip:
        return torch.arange(len(mask))
    kept = mask.nonzero().flatten()
    least = 2 * context.shard.world_size if context.batch_norm else 0
    if 0 < len(kept) < least:
        filling = (~mask).nonzero().flatten()[: least - len(kept)]
        kept = torch.cat([kept, filling]).sort().values
    return kept


SEMI = Method(
    name="semi",
    summary="trained semi-supervised (as Semi-ViT is)",
    parents=("finetune",),
    needs_parent=True,
    needs_pool=True,
    uses_pseudo_labels=True,
    own_settings=frozenset(
        (
            "weak_crop_scale",
            "confidence_threshold",
            "unlabeled_loss_weight",
            "unlabeled_ratio",
            "skip_masked",
            "min_pseudo_entropy",
        )
    ),
    published={
        "transformer": {"batch_size": 128, "base_lr": 1e-3, "layer_decay": 0.75},
        "convnet": finetune.PUBLISHED_CONVNET | {"batch_size": 128},
    },
    presets={
        "semivit-1pct": ("transformer", finetune.UNMIXED | {"confidence_threshold": 0.6}),
    },
    search_space=search_space,
    forwards_per_step=forwards_per_step,
    step_targets=step_targets,
)
