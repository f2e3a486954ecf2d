"""How evaluations and trials are compared, by their scores on val (docs/methods.md §5)."""

from collections.abc import Sequence

# The (Acc@1, cross-entropy) that the best evaluation so far must reach at a step to go on.
Cutoffs = dict[int, tuple[float, float]]


def is_better(metrics: dict[str, float], than: dict[str, float]) -> bool:
    """Whether Acc@1 is higher, or equal with the lower cross-entropy; true if ``than`` is empty."""
    if not than:
        return True
    return rank(metrics["acc1"], metrics["ce"]) > rank(than["acc1"], than["ce"])


def rank(acc1: float, ce: float) -> tuple[float, float]:
    """A sort key that is greater for the better scores."""
    return acc1, -ce


def course(history: Sequence[dict[str, float]]) -> list[tuple[int, float, float]]:
    """(step, Acc@1, cross-entropy) of the best network so far at each evaluation.

    Args:
        history: as ``Outcome.history`` has it.
    """
    bests: list[tuple[int, float, float]] = []
    best: tuple[float, float] | None = None
    for evaluation in history:
        for name in ("student", "ema"):
            pair = evaluation[f"{name}_acc1"], evaluation[f"{name}_ce"]
            if best is None or rank(*pair) > rank(*best):
                best = pair
        assert best is not None
        bests.append((int(evaluation["step"]), *best))
    return bests


def stopped_at(course: Sequence[tuple[int, float, float]], cutoffs: Cutoffs) -> int | None:
    """The first step at which a training with this course falls below its cutoff, or None."""
    for step, acc1, ce in course:
        if step in cutoffs and rank(acc1, ce) < rank(*cutoffs[step]):
            return step
    return None


def falls_behind(history: Sequence[dict[str, float]], cutoffs: Cutoffs) -> bool:
    return stopped_at(course(history), cutoffs) is not None
