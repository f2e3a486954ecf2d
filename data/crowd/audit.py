"""The audit of a crowd's answers: how many count, by worker, and how well workers agree."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Vote:
    """A task's label or the reason for having none, and the number of votes by label."""

    label: str | None
    reason: str | None
    votes: Mapping[str, int]


@dataclass
class Audit:
    """Counts over a crowd's answers, tasks and workers.

    ``dropped`` counts answers by reason, ``unlabeled`` tasks by reason; ``kappa`` is Fleiss' κ of
    the answers that count, None if no task has two; ``workers`` has a record for each worker.
    """

    answers: int = 0
    used: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tasks: int = 0
    labeled: int = 0
    unlabeled: dict[str, int] = field(default_factory=dict)
    kappa: float | None = None
    workers: list[dict[str, Any]] = field(default_factory=list)


def audit(
    frame: pd.DataFrame,
    reasons: "pd.Series[Any]",
    decided: Mapping[str, Vote],
    votes: Mapping[str, Mapping[str, int]],
    scores: Mapping[str, tuple[int, int]],
) -> Audit:
    """Audits a crowd's answers.

    Args:
        frame: answers, with columns ``task``, ``worker`` and ``label``.
        reasons: the reason why each answer does not count, missing for answers that do.
        decided: the vote on every task.
        votes: number of votes that count, by task and label.
        scores: number of right answers and of all answers on gold tasks, by worker.
    """
    labels = {task: vote.label for task, vote in decided.items() if vote.label is not None}
    used = reasons.isna()
    settled = frame.task.map(labels)  # missing for tasks without a label
    judged, agreed = used & settled.notna(), frame.label == settled
    workers = []
    for worker, group in frame.groupby("worker"):
        right, tested = scores.get(str(worker), (0, 0))
        verdicts = agreed[group.index][judged[group.index]]
        workers.append(
            {
                "worker": str(worker),
                "answers": len(group),
                "used": int(used[group.index].sum()),
                "gold": tested,
                "gold_score": right / tested if tested else None,
                "agreement": float(verdicts.mean()) if len(verdicts) else None,
            }
        )
    return Audit(
        answers=len(frame),
        used=int(used.sum()),
        dropped={str(k): int(v) for k, v in reasons.value_counts().items()},
        tasks=len(decided),
        labeled=len(labels),
        unlabeled=dict(Counter(v.reason for v in decided.values() if v.reason is not None)),
        kappa=fleiss_kappa(votes.values()),
        workers=workers,
    )


def fleiss_kappa(votes: Iterable[Mapping[str, int]]) -> float | None:
    """Fleiss' κ (1971) over tasks with at least two answers, whose number may differ by task.

    κ = (P̄ − P̄e) / (1 − P̄e), with P̄ the mean share of agreeing pairs of a task and P̄e = Σ p_j²
    over the labels' shares. It is None without such a task, and undefined, so also None, when
    all answers are the same label.
    """
    tasks = [dict(cast) for cast in votes if sum(cast.values()) >= 2]
    if not tasks:
        return None
    totals: Counter[str] = Counter()
    pairs = []
    for cast in tasks:
        count = sum(cast.values())
        totals.update(cast)
        pairs.append(sum(n * (n - 1) for n in cast.values()) / (count * (count - 1)))
    by_chance = sum((n / totals.total()) ** 2 for n in totals.values())
    if by_chance == 1:
        return None
    return float((sum(pairs) / len(pairs) - by_chance) / (1 - by_chance))
