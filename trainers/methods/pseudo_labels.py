"""What methods have in common that learn from a network's own answers for the pool.

Their settings, the rows that a threshold leaves, and the signs that the answers teach nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from semigrid.trainers.methods.method import History, Space
from semigrid.trainers.methods.step import StepContext, StepInput, TargetRows
from semigrid.trainers.recipe import PoolRecipe, Probability

if TYPE_CHECKING:
    import torch

    from semigrid.trainers.evaluation.predictions import Predictions

# A pool of which a smaller share reached the confidence threshold has taught nothing.
UNUSED_SHARE = 0.01
# With these every pool image of a step teaches.
REHEARSED = {"confidence_threshold": 0.0}


class PseudoLabelRecipe(PoolRecipe):
    """Settings of pseudo labels; the defaults are Semi-ViT's (arXiv 2208.05688)."""

    confidence_threshold: Probability = 0.5
    unlabeled_loss_weight: float = Field(5.0, ge=0)
    skip_masked: bool | None = Field(
        None, description="leave masked images out; None: where that changes no number"
    )
    # when a training counts as collapsed
    collapse_evaluations: int = Field(3, ge=0, description="number in a row; 0: never")
    min_pseudo_entropy: Probability = Field(0.1, description="as a share of that of val's classes")


def search_space(recipe: PseudoLabelRecipe) -> Space:
    """τ ± 0.2, at most 0.95, and half to twice λ_u."""
    tau, weight = recipe.confidence_threshold, recipe.unlabeled_loss_weight
    return {
        "confidence_threshold": (max(0.0, tau - 0.2), min(0.95, tau + 0.2)),
        "unlabeled_loss_weight": (weight / 2, weight * 2),
    }


def forwards_per_step(recipe: PseudoLabelRecipe, with_pool: bool) -> int:
    """Training on all images, and the teacher's forward of the unlabelled ones."""
    return 3 * recipe.batch_size + 4 * recipe.pool_batch_size


def answers(weak: torch.Tensor, context: StepContext[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """p = max q and ŷ = argmax q of the teacher's q = softmax(t(u_w)), (μB,) each.

    Of the whole global batch, on every rank; ``weak`` (N, 3, H, W) are this rank's own.
    """
    p, labels = context.teacher(weak).float().softmax(dim=1).max(dim=1)
    return context.shard.everywhere(p), context.shard.everywhere(labels)


def unlabeled_rows(
    images: torch.Tensor,
    targets: torch.Tensor,
    mask: torch.Tensor,
    numbers: torch.Tensor,
    step: StepInput,
    context: StepContext[PseudoLabelRecipe],
) -> TargetRows:
    """λ_u L_u: a mean over all unlabelled images, masked ones included (FixMatch, eq. 4).

    Args:
        images, targets, mask: of the rows that pass on this rank, (R, 3, H, W), (R, K), (R,).
        numbers: theirs in the global batch of unlabelled images, (R,).
    """
    assert step.pool is not None
    # DDP averages the ranks' gradients: each weighs its rows as if they were of its own batch
    weights = mask.float() / len(step.pool["weak"])
    numbers = len(step.y) * context.shard.world_size + numbers
    factor = context.recipe.unlabeled_loss_weight
    return TargetRows(images, targets, weights, numbers, factor, loss="unlabeled_loss")


def averages(
    mask: torch.Tensor, labels: torch.Tensor, context: StepContext[Any]
) -> dict[str, torch.Tensor]:
    """The share of images that count, and how many pseudo labels each class has."""
    import torch

    # bincount would look for the largest label first, and the host wait for it
    counts = torch.zeros(context.num_classes, dtype=torch.int64, device=labels.device)
    counts.scatter_add_(0, labels, torch.ones_like(labels))
    return {"mask_rate": mask.float().mean(), "pseudo_counts": counts}


def rows_to_train(
    mask: torch.Tensor, context: StepContext[PseudoLabelRecipe], *partners: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The unlabelled images that pass on this rank, and the rows of them that each rank needs.

    This is where a step reads from the device, once: which images pass decides how many there are.

    Args:
        mask: of the global batch, (M,).
        partners: numbers of images that each image needs besides itself, (M,) each.

    Returns:
        Numbers in the global batch (R,), on the mask's device; and for each rank, to be fetched,
        the numbers of its images, then those of their partners in the same order.
    """
    import torch

    shard, device = context.shard, mask.device
    rows = torch.stack([torch.arange(len(mask), device=device), *partners])
    if shard.world_size == 1:
        numbers = numbers_to_train(mask, context)
        return numbers, [rows[:, numbers].flatten()]
    # the ranks have to know what they send each other
    whether, *numbered = torch.stack([mask.long(), *rows]).cpu()
    dealt = shard.deal(numbers_to_train(whether.bool(), context))
    wanted = [torch.cat([each[numbers] for each in numbered]) for numbers in dealt]
    return dealt[shard.rank].to(device), wanted


def numbers_to_train(mask: torch.Tensor, context: StepContext[PseudoLabelRecipe]) -> torch.Tensor:
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
        return torch.arange(len(mask), device=mask.device)
    kept = mask.nonzero().flatten()
    least = 2 * context.shard.world_size if context.batch_norm else 0
    if 0 < len(kept) < least:
        filling = (~mask).nonzero().flatten()[: least - len(kept)]
        kept = torch.cat([kept, filling]).sort().values
    return kept


def measures(predictions: Predictions, recipe: PseudoLabelRecipe) -> dict[str, float]:
    """How good the pseudo labels are, of images whose classes are known."""
    return predictions.confident(recipe.confidence_threshold)


def pool_unused(history: History) -> str | None:
    """Why a training with pseudo labels has learnt next to nothing from its pool; None if it has.

    Of all pool images so far fewer than ``UNUSED_SHARE`` had reached the confidence threshold. Such
    a training is not stopped: it is fine-tuning on its labelled images, and can be compared with
    other cells only if its schedule comes to its end.
    """
    rates = [record["mask_rate"] for record in history if "mask_rate" in record]
    if not rates or sum(rates) / len(rates) >= UNUSED_SHARE:  # evaluations are evenly spaced
        return None
    return (
        f"under {UNUSED_SHARE:.0%} of the pool's images reached the confidence threshold, so the "
        "labelled images alone made these scores; lower confidence_threshold"
    )


def collapse(history: History, recipe: PseudoLabelRecipe, natural: float) -> str | None:
    """Why a training with pseudo labels has collapsed; None if it has not.

    It has when, for ``collapse_evaluations`` evaluations in a row, almost all pseudo labels are of
    one class, or hardly any image reaches the confidence threshold any more (docs/methods.md §6).
    Pseudo labels that were never used can do neither: see ``pool_unused``.

    Args:
        natural: entropy in nats of the classes of val, to compare the pseudo labels' with.
    """
    count = min(recipe.collapse_evaluations, recipe.evaluations)
    recent = history[-count:] if count else []
    if not recent or len(recent) < count or pool_unused(history):
        return None
    after = f"at {count} evaluations in a row, the last at step {recent[-1]['step']:g}, "
    if all(record["mask_rate"] < UNUSED_SHARE for record in recent):
        return (
            f"{after}fewer than {UNUSED_SHARE:.0%} of the pool's images reached the confidence "
            f"threshold ({recipe.confidence_threshold:g}), at first more of them did: the teacher "
            "has collapsed; lower unlabeled_loss_weight or base_lr"
        )
    floor = recipe.min_pseudo_entropy * natural
    if all(record["pseudo_entropy"] < floor for record in recent):
        return (
            f"{after}next to all pseudo labels were of one class (entropy "
            f"{recent[-1]['pseudo_entropy']:.3f} nats, the classes of val have {natural:.3f}): "
            "the teacher has collapsed; lower unlabeled_loss_weight or base_lr, or raise "
            "confidence_threshold"
        )
    return None
