"""Derives labels from a crowd's answers, and audits the answers."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from semigrid.data.crowd.answers import COLUMNS, CONSOLIDATED, normalized
from semigrid.data.crowd.dawid_skene import dawid_skene
from semigrid.data.errors import InputError

VoteMethod = Literal["majority", "dawid-skene"]

# reasons why an answer does not count
SEVERAL = "several labels from one worker"
REPEATED = "a second answer of the same worker"
UNQUALIFIED = "the worker failed on gold tasks"
UNTESTED = "the worker answered no gold task"
SURPLUS = "more answers than asked for"
# reasons why a task has no label
NO_ANSWER = "no answer that counts"
TIE = "a tie"
TOO_FEW = "too few equal answers"
UNSURE = "too improbable"

# smallest probability at which dawid-skene gives a label
MIN_PROBABILITY = 0.7


class Rules(BaseModel):
    """The rules by which answers count and make a label.

    An answer counts if its worker answered at least one gold task and was right on a share of at
    least ``min_gold_score`` of them. The first ``of`` answers that count are used. A label needs at
    least ``agree`` of them, and more than any other label (in the paper: two of three). The method
    ``dawid-skene`` weighs workers by their agreement with each other, and needs a probability of at
    least ``MIN_PROBABILITY`` instead.
    """

    model_config = ConfigDict(frozen=True)
    agree: int = Field(2, gt=0)
    of: int = Field(3, gt=0)
    min_gold_score: float = Field(0.7, ge=0, le=1)
    method: VoteMethod = "majority"


@dataclass(frozen=True)
class Vote:
    """A task's label or the reason for having none, and the number of votes by label."""

    label: str | None
    reason: str | None
    votes: Mapping[str, int]


@dataclass(frozen=True)
class Audit:
    """Counts over a crowd's answers, tasks and workers.

    ``dropped`` counts answers by reason, ``unlabeled`` tasks by reason; ``kappa`` is Fleiss' κ of
    the answers that count, None if no task has two; ``workers`` has a record for each worker;
    ``unknown_tasks`` match no image; ``spellings`` groups labels that differ only in spelling.
    """

    answers: int
    used: int
    dropped: dict[str, int]
    tasks: int
    labeled: int
    unlabeled: dict[str, int]
    kappa: float | None
    workers: list[dict[str, Any]]
    unknown_tasks: list[str] = field(default_factory=list)
    spellings: list[list[str]] = field(default_factory=list)


def consensus(
    answers: pd.DataFrame, rules: Rules | None = None, gold: Mapping[str, str] | None = None
) -> tuple[dict[str, Vote], Audit]:
    """Derives labels from answers.

    Args:
        answers: a row for each answer, in order, with columns ``task``, ``worker``, ``label``; the
            label is missing where the worker gave several.
        gold: true labels of the gold tasks; without gold tasks every worker qualifies.

    Returns:
        The vote on every task, in the order of first appearance, and the audit. Gold tasks have
        their true labels.

    Raises:
        InputError: the rules ask for more equal answers than count, or there are too many different
            labels for ``dawid-skene``.
    """
    rules, gold = rules or Rules(), gold or {}
    if rules.agree > rules.of:
        raise InputError(
            f"agree is {rules.agree} of {rules.of}; give a number from 1 to {rules.of}"
        )
    frame = answers[COLUMNS].astype(str)
    single = answers["label"].notna()
    scores = _gold_scores(frame[single], gold)
    reasons = _reasons(frame, single, rules, scores)
    counted = frame[reasons.isna()]
    votes: dict[str, Counter[str]] = {}
    # groupby would be slow: it makes an object for each of perhaps a hundred thousand tasks
    for task, label in zip(counted.task, counted.label, strict=True):
        votes.setdefault(task, Counter())[label] += 1
    settled_rows = frame[frame.worker == CONSOLIDATED]
    settled = dict(zip(settled_rows.task, settled_rows.label, strict=True)) | dict(gold)
    judge = dawid_skene(counted) if rules.method == "dawid-skene" else None
    decided = {}
    for task in dict.fromkeys(frame.task):
        cast = votes.get(task, Counter())
        if task in settled:
            decided[task] = Vote(settled[task], None, cast)
        elif judge is not None and cast:
            label, probability = judge[task]
            sure = probability >= MIN_PROBABILITY
            decided[task] = Vote(label if sure else None, None if sure else UNSURE, cast)
        else:
            decided[task] = _majority(cast, rules)
    labels = {task: vote.label for task, vote in decided.items() if vote.label is not None}
    return decided, Audit(
        answers=len(frame),
        used=len(counted),
        dropped={str(k): int(v) for k, v in reasons.value_counts().items()},
        tasks=len(decided),
        labeled=len(labels),
        unlabeled=dict(Counter(v.reason for v in decided.values() if v.reason is not None)),
        kappa=fleiss_kappa(votes.values()),
        workers=_workers(frame, counted, labels, scores),
        spellings=spellings_of(frame.label[single].unique()),
    )


def _majority(votes: Counter[str], rules: Rules) -> Vote:
    if not votes:
        return Vote(None, NO_ANSWER, votes)
    (label, most), *others = votes.most_common()
    if most < rules.agree:
        return Vote(None, TOO_FEW, votes)
    if others and others[0][1] == most:
        return Vote(None, TIE, votes)
    return Vote(label, None, votes)


def _gold_scores(frame: pd.DataFrame, gold: Mapping[str, str]) -> pd.DataFrame | None:
    """Number of ``right`` and of ``all`` answers on gold tasks by worker; first answers count.

    None without gold tasks.
    """
    if not gold:
        return None
    tested = frame[frame.task.isin(list(gold)) & (frame.worker != CONSOLIDATED)]
    tested = tested.drop_duplicates(["task", "worker"])
    right = (tested.label == tested.task.map(gold)).groupby(tested.worker)
    return pd.DataFrame({"right": right.sum(), "all": right.size()})


def _reasons(
    frame: pd.DataFrame, single: "pd.Series[bool]", rules: Rules, scores: pd.DataFrame | None
) -> "pd.Series[Any]":
    """The reason why each answer does not count, missing for answers that do."""
    reasons: pd.Series[Any] = pd.Series(None, index=frame.index, dtype=object)
    reasons[~single] = SEVERAL
    again = frame[single].duplicated(["task", "worker"])
    reasons[again.index[again]] = REPEATED
    if scores is not None:
        failed = scores.index[scores["right"] < rules.min_gold_score * scores["all"]]
        reasons[reasons.isna() & ~frame.worker.isin([CONSOLIDATED, *scores.index])] = UNTESTED
        reasons[reasons.isna() & frame.worker.isin(failed)] = UNQUALIFIED
    place = frame[reasons.isna()].groupby("task").cumcount()
    reasons[place.index[place >= rules.of]] = SURPLUS
    return reasons


def spellings_of(labels: Iterable[str]) -> list[list[str]]:
    """Labels that differ only in case, blanks or forms of a character, by group."""
    groups: dict[str, list[str]] = {}
    for label in sorted({*labels}):
        groups.setdefault(normalized(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _workers(
    frame: pd.DataFrame,
    counted: pd.DataFrame,
    labels: Mapping[str, str],
    scores: pd.DataFrame | None,
) -> list[dict[str, Any]]:
    """A record for each worker: answers given and used, score on gold, agreement with labels."""
    table = pd.DataFrame({"answers": frame.groupby("worker").size()})
    table["used"] = counted.groupby("worker").size()
    table["gold"] = 0 if scores is None else scores["all"]
    table = table.fillna(0).astype(int)
    table["gold_score"] = None if scores is None else scores["right"] / scores["all"]
    judged = counted[counted.task.isin(list(labels))]
    agreed = judged.label == judged.task.map(labels)
    table["agreement"] = agreed.groupby(judged.worker).mean()
    table = table.reset_index().astype(object)
    rows = table.where(table.notna(), None).itertuples(index=False)
    return [dict(zip(table.columns, row, strict=True)) for row in rows]


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
