"""How evaluations and trials are compared, by their scores on val (docs/methods.md §5)."""

from collections.abc import Mapping, Sequence

from semigrid.trainers.evaluation.scores import SUFFIXES, Metric

# The (Acc@1, cross-entropy) that the best evaluation so far must reach at a step to go on.
Cutoffs = dict[int, tuple[float, float]]


def score(metrics: Mapping[str, float], metric: Metric, network: str = "") -> tuple[float, float]:
    """(Acc@1, cross-entropy) of the metric that chooses, which all comparisons are made by.

    Args:
        network: ``student_`` or ``ema_`` for an evaluation of both.
    """
    suffix = SUFFIXES[metric]
    return metrics[f"{network}acc1{suffix}"], metrics[f"{network}ce{suffix}"]


def is_better(metrics: dict[str, float], than: dict[str, float], metric: Metric) -> bool:
    """Whether Acc@1 is higher, or equal with the lower cross-entropy; true if ``than`` is empty."""
    return not than or rank(*score(metrics, metric)) > rank(*score(than, metric))


def rank(acc1: float, ce: float) -> tuple[float, float]:
    """A sort key that is greater for the better scores."""
    return acc1, -ce


def course(history: Sequence[dict[str, float]], metric: Metric) -> list[tuple[int, float, float]]:
    """(step, Acc@1, cross-entropy) of the best network so far at each evaluation.

    Args:
        history: as ``Outcome.history`` has it.
    """
    bests: list[tuple[int, float, float]] = []
    best: tuple[float, float] | None = None
    for evaluation in history:
        for network in ("student_", "ema_"):
            pair = score(evaluation, metric, network)
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


def falls_behind(history: Sequence[dict[str, float]], cutoffs: Cutoffs, metric: Metric) -> bool:
    return stopped_at(course(history, metric), cutoffs) is not None
