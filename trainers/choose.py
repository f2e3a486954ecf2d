"""How evaluations and trials are compared. Imports nothing, so that a plan is quick."""

from collections.abc import Sequence

# What the best evaluation so far must reach at a step, (Acc@1, cross-entropy), to go on.
Cutoffs = dict[int, tuple[float, float]]


def is_better(metrics: dict[str, float], than: dict[str, float]) -> bool:
    """Higher Acc@1 on val, and of equal ones the lower cross-entropy."""
    if not than:
        return True
    return rank(metrics["acc1"], metrics["ce"]) > rank(than["acc1"], than["ce"])


def rank(acc1: float, ce: float) -> tuple[float, float]:
    """A key by which the better one is the greater one."""
    return acc1, -ce


def course(history: Sequence[dict[str, float]]) -> list[tuple[int, float, float]]:
    """(step, Acc@1, cross-entropy) of the best so far, of student and teacher, at each evaluation.

    Args:
        history: as ``Outcome.history`` has it.
    """
    found: list[tuple[int, float, float]] = []
    best: tuple[float, float] | None = None
    for evaluation in history:
        for name in ("student", "ema"):
            pair = evaluation[f"{name}_acc1"], evaluation[f"{name}_ce"]
            if best is None or rank(*pair) > rank(*best):
                best = pair
        assert best is not None
        found.append((int(evaluation["step"]), *best))
    return found


def stopped_at(course: Sequence[tuple[int, float, float]], cutoffs: Cutoffs) -> int | None:
    """The first step at which a training with this course falls below its cutoff, or None."""
    for step, acc1, ce in course:
        if step in cutoffs and rank(acc1, ce) < rank(*cutoffs[step]):
            return step
    return None


def falls_behind(history: Sequence[dict[str, float]], cutoffs: Cutoffs) -> bool:
    return stopped_at(course(history), cutoffs) is not None
