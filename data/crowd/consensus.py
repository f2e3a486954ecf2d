"""Derives labels from a crowd's answers: selects the answers that count, and counts votes."""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from semigrid.data.crowd.answers import COLUMNS, CONSOLIDATED
from semigrid.data.crowd.audit import Audit, Vote, audit
from semigrid.data.errors import InputError

VoteMethod = Literal["majority", "dawid-skene"]

# reasons why an answer does not count
REPEATED = "a second answer of the same worker"
UNQUALIFIED = "the worker failed on gold tasks"
UNTESTED = "the worker answered no gold task"
SURPLUS = "more answers than asked for"
# reasons why a task has no label
NO_ANSWER = "no answer that counts"
TIE = "a tie"
TOO_FEW = "too few equal answers"
UNSURE = "too improbable"


@dataclass(frozen=True)
class Rules:
    """The rules by which answers count and make a label.

    An answer counts if its worker answered at least one gold task and was right on a share of at
    least ``min_gold_score`` of them. The first ``of`` answers that count are used. A label needs at
    least ``agree`` of them, and more than any other label (in the paper: two of three). The method
    ``dawid-skene`` (Dawid and Skene 1979, by crowd-kit) weighs workers by their agreement with each
    other, and needs a probability of at least ``min_probability`` instead.
    """

    agree: int = 2
    of: int = 3
    min_gold_score: float = 0.7
    method: VoteMethod = "majority"
    min_probability: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.agree <= self.of:
            raise InputError(
                f"agree is {self.agree} of {self.of}; give a number from 1 to {self.of}"
            )


def consensus(
    answers: pd.DataFrame, rules: Rules | None = None, gold: Mapping[str, str] | None = None
) -> tuple[dict[str, Vote], Audit]:
    """Derives labels from answers.

    Args:
        answers: a row for each answer, in order, with columns ``task``, ``worker``, ``label``.
        gold: true labels of the gold tasks; without gold tasks every worker qualifies.

    Returns:
        The vote on every task, in the order of first appearance, and the audit. Gold tasks have
        their true labels.
    """
    rules, gold = rules or Rules(), gold or {}
    frame = answers[COLUMNS].astype(str)
    scores = _gold_scores(frame, gold)
    reasons = _reasons(frame, rules, gold, scores)
    counted = frame[reasons.isna()]
    votes: dict[str, dict[str, int]] = {}
    # groupby would be slow: it makes an object for each of perhaps a hundred thousand tasks
    for task, label in zip(counted.task, counted.label, strict=True):
        cast = votes.setdefault(task, {})
        cast[label] = cast.get(label, 0) + 1
    settled_rows = frame[frame.worker == CONSOLIDATED]
    settled = dict(zip(settled_rows.task, settled_rows.label, strict=True)) | dict(gold)
    judge = _dawid_skene(counted, rules) if rules.method == "dawid-skene" else None
    decided = {}
    for task in dict.fromkeys(frame.task):
        cast = votes.get(task, {})
        if task in settled:
            decided[task] = Vote(settled[task], None, cast)
        elif judge is not None and cast:
            label, probability = judge[task]
            sure = probability >= rules.min_probability
            decided[task] = Vote(label if sure else None, None if sure else UNSURE, cast)
        else:
            decided[task] = _majority(cast, rules)
    return decided, audit(frame, reasons, decided, votes, scores)


def _majority(votes: Mapping[str, int], rules: Rules) -> Vote:
    if not votes:
        return Vote(None, NO_ANSWER, votes)
    (label, most), *others = Counter(votes).most_common()
    if most < rules.agree:
        return Vote(None, TOO_FEW, votes)
    if others and others[0][1] == most:
        return Vote(None, TIE, votes)
    return Vote(label, None, votes)


def _gold_scores(frame: pd.DataFrame, gold: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Number of right and of all answers on gold tasks by worker; first answers count."""
    tested = frame[frame.task.isin(list(gold)) & (frame.worker != CONSOLIDATED)].drop_duplicates(
        ["task", "worker"]
    )
    right = tested.label == tested.task.map(gold)
    return {
        str(worker): (int(group.sum()), len(group))
        for worker, group in right.groupby(tested.worker)
    }


def _reasons(
    frame: pd.DataFrame,
    rules: Rules,
    gold: Mapping[str, str],
    scores: Mapping[str, tuple[int, int]],
) -> "pd.Series[Any]":
    """The reason why each answer does not count, missing for answers that do."""
    reasons: pd.Series[Any] = pd.Series(None, index=frame.index, dtype=object)
    reasons[frame.duplicated(["task", "worker"])] = REPEATED
    if gold:
        failed = {w for w, (right, of) in scores.items() if right < rules.min_gold_score * of}
        reasons[reasons.isna() & ~frame.worker.isin([CONSOLIDATED, *scores])] = UNTESTED
        reasons[reasons.isna() & frame.worker.isin(list(failed))] = UNQUALIFIED
    place = frame[reasons.isna()].groupby("task").cumcount()
    reasons[place.index[place >= rules.of]] = SURPLUS
    return reasons


def _dawid_skene(counted: pd.DataFrame, rules: Rules) -> dict[str, tuple[str, float]]:
    """The most probable label of each task, with its probability."""
    try:
        from crowdkit.aggregation import DawidSkene
    except ImportError as error:
        raise InputError(
            "the method dawid-skene needs crowd-kit: install semigrid[crowd], or use majority"
        ) from error
    if counted.empty:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # crowd-kit uses deprecated parts of pandas
        table = DawidSkene(n_iter=100).fit_predict_proba(counted)
    return {str(task): (str(row.idxmax()), float(row.max())) for task, row in table.iterrows()}
