"""The paper's claims (arXiv 2305.10018), tested on one's own results.

A claim about several cells holds where it holds for each of them: then each may be tested by
itself. It is refuted by one of them, so there the level is divided among them (Bonferroni).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from semigrid.grid.analysis.pool_curve import PoolCurve
from semigrid.grid.analysis.sentences import points
from semigrid.grid.analysis.statistics import (
    LEVEL,
    Comparison,
    Interval,
    accuracy_interval,
    compare,
)
from semigrid.grid.experiment import show_percent
from semigrid.grid.tables.cells import show_points

Verdict = Literal["held", "refuted", "undecided", "not tested"]
BY_FRACTION = Mapping[Fraction, np.ndarray]


@dataclass(frozen=True)
class Claim:
    """A claim about one dataset, what became of it, and the figures that say so."""

    dataset: str
    text: str
    verdict: Verdict
    evidence: list[str]


@dataclass(frozen=True)
class _Case:
    """One comparison of several: what is compared, and the ends that decide."""

    name: str
    found: Comparison
    strict: Interval  # at the level divided among all


def beats(dataset: str, semi: str, base: str, first: BY_FRACTION, second: BY_FRACTION) -> Claim:
    """Semi-ViT is above ViT at every label fraction."""
    both = sorted(first.keys() & second.keys())
    pairs = [(show_percent(each), first[each], second[each]) for each in both]
    text = f"{semi} beats {base} at every label fraction"
    if not pairs:
        return Claim(dataset, text, "not tested", ["no label fraction has both"])
    return _judge(dataset, text, _cases(pairs), above=0.0, below=0.0)


def half_is_enough(
    dataset: str, semi: str, base: str, first: BY_FRACTION, second: BY_FRACTION, margin: float
) -> Claim:
    """Semi-ViT with a fraction of the labels matches ViT with twice as many.

    It matches where it is certainly not more than ``margin``, a share, below.
    """
    unit = "point" if margin == 0.01 else "points"
    text = f"{semi} with half the labels matches {base} (within {100 * margin:g} {unit})"
    pairs = [
        (f"{show_percent(each)} against {show_percent(2 * each)}", first[each], second[2 * each])
        for each in sorted(first)
        if 2 * each in second
    ]
    if not pairs:
        return Claim(dataset, text, "not tested", ["no fraction has its double"])
    return _judge(dataset, text, _cases(pairs), above=-margin, below=-margin)


def _cases(pairs: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> list[_Case]:
    level = 1 - (1 - LEVEL) / len(pairs)
    return [_Case(name, compare(a, b), compare(a, b, level).interval) for name, a, b in pairs]


def _judge(dataset: str, text: str, cases: list[_Case], above: float, below: float) -> Claim:
    """Held where all are certainly above, refuted where one is certainly below."""
    verdict: Verdict = "undecided"
    if all(_is_above(case, above) for case in cases):
        verdict = "held"
    elif any(case.strict.high < below for case in cases):
        verdict = "refuted"
    return Claim(dataset, text, verdict, [_show(case.name, case.found) for case in cases])


def _is_above(case: _Case, threshold: float) -> bool:
    if threshold == 0:  # the exact test where there is one
        return case.found.difference > 0 and case.found.p < 1 - LEVEL
    return case.found.interval.low > threshold


def _show(name: str, found: Comparison) -> str:
    return f"{name}: {show_points(found.difference)} points ({points(found.interval)})"


def more_helps_then_hurts(
    dataset: str, name: str, curve: PoolCurve | None, cells: Mapping[int, np.ndarray]
) -> Claim:
    """More unlabelled images help up to a point, then hurt.

    Held where the best pool is certainly better than both the smallest and the largest; refuted
    where it is one of these two, and certainly better than the other.
    """
    text = f"{name}: more unlabelled images help up to a point, then hurt"
    if curve is None or len(curve.pools) < 3:
        return Claim(dataset, text, "not tested", ["it takes three sizes of the pool"])
    first, last, best = curve.pools[0], curve.pools[-1], curve.best
    level = 1 - (1 - LEVEL) / len(curve.pools)  # the best is chosen among them
    whole = compare(cells[last], cells[first])
    over_all = f"{first:,} to {last:,} images"
    if best in (first, last):
        verdict: Verdict = "refuted" if whole.p < 1 - LEVEL else "undecided"
        return Claim(dataset, text, verdict, [_show(over_all, whole)])
    rise = compare(cells[best], cells[first], level)
    fall = compare(cells[last], cells[best], level)
    held = rise.interval.low > 0 and fall.interval.high < 0
    evidence = [
        _show(f"{first:,} to {best:,} images", rise),
        _show(f"{best:,} to {last:,} images", fall),
        _show(over_all, whole),
    ]
    return Claim(dataset, text, "held" if held else "undecided", evidence)


def rare_classes_fail(
    dataset: str, name: str, classes: Mapping[str, np.ndarray], rare: float
) -> Claim:
    """Classes with under 1 % of the training images fall below 50 %.

    Args:
        classes: ``right``, (S, n), of the n test images of each rare class.
        rare: the share of the training images below which a class is rare.
    """
    text = f"classes under {rare:.0%} of the training set fall below 50% ({name})"
    if not classes:
        return Claim(dataset, text, "not tested", ["no class is as rare as that"])
    level = 1 - (1 - LEVEL) / len(classes)
    alone = {each: accuracy_interval(right) for each, right in classes.items()}
    strict = {each: accuracy_interval(right, level) for each, right in classes.items()}
    verdict: Verdict = "undecided"
    if all(interval.high < 0.5 for interval in alone.values()):
        verdict = "held"
    elif any(interval.low >= 0.5 for interval in strict.values()):
        verdict = "refuted"
    evidence = [
        f"{each}: {classes[each].mean():.1%} of {classes[each].shape[1]} test images "
        f"({interval.low:.1%} to {interval.high:.1%})"
        for each, interval in alone.items()
    ]
    return Claim(dataset, text, verdict, evidence)
