"""Whether fewer labels are enough for a semi-supervised model, in a few sentences.

Enough are those with which it is certainly no more than a margin below labels alone with all of
them, not enough those with which it certainly is. Between the two nothing is promised.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from semigrid.grid.analysis.claims import Claim
from semigrid.grid.analysis.families import (
    Family,
    chance_of,
    name_of,
    on_val,
    start_alike,
    trained_longer,
    what_helps,
)
from semigrid.grid.analysis.labels_saved import Needed
from semigrid.grid.analysis.numbers import (
    ONE_SEED,
    show_basis,
    show_margin,
    show_percents,
    show_points,
    show_points_range,
)
from semigrid.grid.analysis.result_set import CellResult
from semigrid.grid.analysis.statistics import LEVEL, Comparison, compare
from semigrid.grid.experiment.schema import show_percent

# "open": neither enough nor not enough can be excluded; "no answer": nothing to compare
Verdict = Literal["enough", "open", "not enough", "not tested", "no answer"]


@dataclass(frozen=True)
class Saving:
    """A semi-supervised cell, and how many labels its baseline would need to reach it."""

    row: CellResult
    baseline: str
    needed: Needed | None

    @property
    def acc1(self) -> float:
        """A share."""
        return float(self.row.balanced.mean())

    @property
    def saved(self) -> float | None:
        """None where it is not certain that any are, or that it takes more."""
        return None if self.needed is None else self.needed.saved(self.row.labeled_images)


@dataclass(frozen=True)
class Headline:
    """One dataset's answer for one semi-supervised model, in a few sentences.

    ``saving`` is that of the cell that the text is about: with the fewest labels that are enough,
    or the nearest to it. ``against`` is its difference from ``full``, labels alone with the most
    labels. Without finished cells that have learnt there is no answer yet, and all three are None.
    ``may_save`` is whether labels may be said to be saved: neither beside "cannot be excluded", nor
    where it is undecided whether the pool helps beyond compute. ``worth`` is the claim that it
    does, beyond ``control``, by its name; ``helps`` is what that would be.
    """

    dataset: str
    model: str
    text: str
    worth: Claim
    control: str
    helps: str
    verdict: Verdict = "no answer"
    saving: Saving | None = None
    full: CellResult | None = None
    against: Comparison | None = None
    may_save: bool = False

    @property
    def is_answer(self) -> bool:
        return self.verdict != "no answer"


@dataclass(frozen=True)
class _Tried:
    """A cell with fewer labels than all, and its difference from labels alone with all."""

    saving: Saving
    against: Comparison
    has_learnt: bool

    @property
    def fraction(self) -> Fraction:
        return self.saving.row.cell.labels


def headline(family: Family, savings: list[Saving], claim: Claim, margin: float) -> Headline:
    """The answer for a family.

    Args:
        savings: those of its cells that have learnt, by labels, then by pool.
        claim: whether unlabelled images help beyond compute.
        margin: how much worse, as a share from 0 to 1, a model may be and still match another.
    """
    dataset, model = family.dataset, family.model
    control = f"{trained_longer(family.plan, model)} trained for longer"
    helps = what_helps(family.plan, model)
    text = _why_none(family, savings)
    if text is not None:
        return Headline(dataset, model, text, claim, control, helps)
    full = max(family.alone.values(), key=lambda row: row.label_count.train)
    smallest = _smallest(family, savings)
    fewer = [each for each in smallest if each.row.labeled_images < full.labeled_images]
    # one is chosen among several: each is compared at a level at which all hold together
    level = 1 - (1 - LEVEL) / max(1, len(fewer))
    tried = [
        _Tried(
            each,
            compare(each.row.balanced, full.balanced, level),
            each.row.cell in family.learnt,
        )
        for each in fewer or smallest[:1]
    ]
    verdict, shown, start = _verdict(family, tried, bool(fewer), full, margin)
    parts = [
        f"{start}.",
        _facts(family, shown, full, len(fewer)),
        _caveat(family, full, shown, verdict),
    ]
    parts.append(_worth(family, claim, shown))
    may_save = verdict in ("enough", "not tested") and claim.verdict in ("held", "not tested")
    if shown.saving.needed is not None:
        # "saved" stands in no text that says otherwise
        labels = shown.saving.row.labeled_images
        base = baseline_name(family)
        parts.append(shown.saving.needed.text(base, model, labels, may_save))
    text = " ".join(part for part in parts if part)
    return Headline(
        dataset,
        model,
        text,
        claim,
        control,
        helps,
        verdict,
        shown.saving,
        full,
        shown.against,
        may_save,
    )


def baseline_name(family: Family) -> str:
    """What the cells are called that labels saved are counted against."""
    names = dict.fromkeys(name_of(family.plan, row.cell) for row in family.curve.values())
    return " or ".join(sorted(names))


def _smallest(family: Family, savings: list[Saving]) -> list[Saving]:
    """By labels, of several pools the smallest with which it has learnt, else the smallest.

    What has not learnt has been tried all the same.
    """
    of_learnt = {each.row.cell: each for each in savings}
    last_wins = sorted(reversed(family.semi), key=lambda row: row.cell in of_learnt)
    rows = {row.cell.labels: row for row in last_wins}
    return [
        of_learnt.get(row.cell) or Saving(row, baseline_name(family), None)
        for row in sorted(rows.values(), key=lambda row: row.labeled_images)
    ]


def _why_none(family: Family, savings: list[Saving]) -> str | None:
    """Why there is nothing to compare; None if there is."""
    alone = _labels_alone(family)
    if not alone:
        return (
            f"No answer: no cell with labels alone to compare {family.model} with; add controls: "
            "[compute]"
        )
    lacking = alone if family.semi else family.model
    base = [*family.parents.values(), *family.others, *family.controls["compute"].values()]
    if not family.semi or not base:
        return f"No answer yet: no cell of {lacking} is finished"
    lacking = family.model if not savings else alone
    if not savings or not family.alone:
        return (
            f"No answer: no finished cell of {lacking} is certainly above chance, "
            f"{chance_of(family.semi[0]):.1%}"
        )
    return None


def _labels_alone(family: Family) -> str:
    """The parent or, of a model on a backbone, whatever is planned there with labels alone."""
    if family.parent is not None:
        return family.parent
    plan, model = family.plan, family.model
    cells = [
        cell
        for cell in plan.cells
        if cell.dataset == family.dataset
        if (cell.model == model and cell.control == "compute")
        or (cell.unlabeled is None and start_alike(plan, cell.model, model))
    ]
    return " or ".join(dict.fromkeys(name_of(plan, cell) for cell in cells))


def _verdict(
    family: Family, tried: list[_Tried], has_fewer: bool, full: CellResult, margin: float
) -> tuple[Verdict, _Tried, str]:
    """The verdict, the cell to show, and the sentence that says so."""
    model, loss = family.model, f"a loss of more than {show_margin(margin)}"
    best = max(tried, key=lambda each: each.against.difference)
    # the most labels that were finished may be fewer than all
    goal = "" if full.cell.labels == 1 else f" to match {show_percent(full.cell.labels)}"
    if not has_fewer:
        others = f"{name_of(family.plan, full.cell)}, {full.labeled_images:,}"
        return "not tested", best, f"No finished cell of {model} has fewer labels than {others}"
    for each in tried:
        if each.has_learnt and each.against.interval.low >= -margin:
            share = show_percent(each.fraction)
            start = f"{share} of the train labels are enough for {model}{goal}"
            worse = [
                other.fraction
                for other in tried
                if other.fraction > each.fraction and other.against.interval.high < -margin
            ]
            return "enough", each, start + (f", but {show_percents(worse)} are not" * bool(worse))
    candidates = [each for each in tried if each.against.interval.high >= -margin]
    failed = show_percents([each.fraction for each in tried if each not in candidates])
    if not candidates:
        return "not enough", best, f"{failed} of the train labels are not enough for {model}{goal}"
    able = [each for each in candidates if each.has_learnt]
    good = [each for each in able if each.against.difference >= -margin]
    shown = good[0] if good else max(able or candidates, key=lambda each: each.against.difference)
    share = show_percent(shown.fraction)
    if shown.against.is_vague:
        start = f"Whether fewer labels are enough for {model}{goal} cannot be said"
        start += f" from {show_basis(shown.against)}"
    elif good:
        start = f"{share} of the train labels may be enough for {model}{goal}: "
        start += f"neither that nor {loss} can be excluded"
    else:
        start = f"Whether fewer labels are enough for {model}{goal} is undecided: with {share}, "
        if able:
            start += f"the loss may be more than {show_margin(margin)}, or less"
        else:
            start += f"it is not certainly above chance, {chance_of(shown.saving.row):.1%}"
    return "open", shown, start + (f"; {failed} are not enough" if failed else "")


def _facts(family: Family, shown: _Tried, full: CellResult, together: int) -> str:
    """What was compared, and the difference."""
    row, against = shown.saving.row, shown.against
    all_labels = "all " if full.cell.labels == 1 else ""
    text = (
        f"With {row.labeled_images:,} labels ({row.label_count}) and {row.pool_images:,} "
        f"unlabelled images it scores {shown.saving.acc1:.1%}; "
        f"{name_of(family.plan, full.cell)}, with {all_labels}{full.labeled_images:,} labels, "
        f"scores {full.balanced.mean():.1%}"
        f"{_chosen(family, full)}"
    )
    if against.is_vague:
        return f"{text}."
    whose = "95% interval" + (f" for {together} fractions together" if together > 1 else "")
    return (
        f"{text}: {show_points(100 * against.difference)} points ({whose} "
        f"{show_points_range(against.interval)}).{f' {ONE_SEED}' * (against.seeds == 1)}"
    )


def _chosen(family: Family, full: CellResult) -> str:
    """How labels alone were chosen, where val chose them."""
    if full.cell.control is not None:
        return ""
    fraction = full.cell.labels
    rows = [row for row in family.labels_only if row.cell.labels == fraction]
    below = [name_of(family.plan, row.cell) for row in rows if on_val(row) < on_val(full)]
    return f" (chosen on val over {' and '.join(below)})" if below else ""


def _worth(family: Family, claim: Claim, shown: _Tried) -> str:
    """What ``what_helps`` adds at equal training; nothing where that is not known.

    First with the labels that the text is about, then on average.
    """
    mean, pairs = claim.mean, family.beside("compute")
    if mean is None or mean.is_vague:
        return ""
    found = []
    if len(pairs) > 1 and pairs.get(shown.fraction, (None,))[0] is shown.saving.row:
        own = claim.parts[shown.fraction]
        if not own.is_vague:
            share, whose = show_percent(shown.fraction), f"for {len(pairs)} fractions together "
            found.append(f"with {share}, {_show(own, whose)}")
    over = f"on average over {show_percents(sorted(pairs))}, " if len(pairs) > 1 else ""
    found.append(over + _show(mean))
    differences, what = "; ".join(found), what_helps(family.plan, family.model)
    match claim.verdict:
        case "held":
            return f"Beyond longer training, {what} add accuracy: {differences}."
        case "refuted":
            return f"Beyond longer training, {what} do not help: {differences}."
    unlike = ", as it is not alike at every fraction" if claim.is_unlike else ""
    return f"Whether {what} help beyond longer training is undecided{unlike}: {differences}."


def _show(against: Comparison, whose: str = "") -> str:
    return (
        f"{show_points(100 * against.difference)} points (95% interval {whose}"
        f"{show_points_range(against.interval)})"
    )


def _caveat(family: Family, full: CellResult, shown: _Tried, verdict: Verdict) -> str:
    """What part longer training may have in a gain, or in few labels being enough.

    Nothing where both fractions have a control.
    """
    if shown.against.difference > 0:
        what = "Some or all of this"
    elif verdict == "enough":
        what = "That these are enough"
    else:
        return ""
    controlled = family.controls["compute"]
    lacking = [f for f in {full.cell.labels: 0, shown.fraction: 0} if f not in controlled]
    if not lacking:
        return ""
    kinds = [(cell.dataset, cell.model, cell.labels, cell.control) for cell in family.plan.cells]
    planned = [f for f in lacking if (family.dataset, family.model, f, "compute") in kinds]
    share = show_percents(sorted(planned or lacking))
    if "compute" not in family.plan.experiment.file.controls:
        why = "add controls: [compute]"
    elif planned:
        why = f"the control with {share} is not finished"
    else:
        why = f"the grid has no {family.model} cell at {share}, so there is no control for it"
    return f"{what} may be due to longer training: {why}."
