"""Signs that a training leads to nothing (docs/methods.md §6)."""

from collections.abc import Sequence
from typing import Literal

from semigrid.trainers.recipe import Recipe


class HopelessError(RuntimeError):
    """The training leads to nothing.

    It ``diverged`` when its loss, or what the model predicts, is no longer a finite number; it
    ``collapsed`` when its pseudo labels teach nothing, see ``collapse``.
    """

    def __init__(self, status: Literal["diverged", "collapsed"], reason: str):
        super().__init__(reason)
        self.status = status


# A pool of which a smaller share reached the confidence threshold has taught nothing.
UNUSED_SHARE = 0.01


def pool_unused(history: Sequence[dict[str, float]]) -> bool:
    """Whether a training with pseudo labels has learnt next to nothing from its pool.

    Of all pool images so far fewer than ``UNUSED_SHARE`` had reached the confidence threshold. Such
    a training is not stopped: it is fine-tuning on its labelled images, and can be compared with
    other cells only if its schedule comes to its end.
    """
    rates = [record["mask_rate"] for record in history if "mask_rate" in record]
    return bool(rates) and sum(rates) / len(rates) < UNUSED_SHARE  # evaluations are evenly spaced


def collapse(history: Sequence[dict[str, float]], recipe: Recipe, natural: float) -> str | None:
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
