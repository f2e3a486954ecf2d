"""Claims, tested on one's own results: the paper's (arXiv 2305.10018), and the pool's own worth.

A claim about several cells holds where it holds for each of them, so each may be tested by itself.
One of them is enough to refute it, so for that the level is divided among them (Bonferroni).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from scipy import stats

from semigrid.grid.analysis.numbers import show_difference, show_margin, show_points
from semigrid.grid.analysis.pool_curve import PoolCurve
from semigrid.grid.analysis.statistics import (
    LEVEL,
    Comparison,
    Interval,
    Weighted,
    accuracy_interval,
    compare,
    contrast,
    plain,
    quantile,
)
from semigrid.grid.experiment.schema import show_percent

Verdict = Literal["held", "refuted", "undecided", "not tested"]
ByFraction = Mapping[Fraction, Weighted]  # cells by label fraction


@dataclass(frozen=True)
class Claim:
    """A claim about one dataset, the verdict, and the figures that it rests on.

    ``mean`` is the difference that decides, where one does: a mean over label fractions, whose own
    are in ``parts``, with intervals that hold together. Where ``is_unlike``, it would, but at one
    of them the opposite is certain.
    """

    dataset: str
    text: str
    verdict: Verdict
    evidence: list[str]
    mean: Comparison | None = None
    parts: Mapping[Fraction, Comparison] = field(default_factory=dict)
    is_unlike: bool = False


def helps_beyond(
    dataset: str,
    semi: str,
    control: str,
    pairs: Mapping[Fraction, tuple[Weighted, Weighted]],
    missing: str,
    show: Callable[[Fraction], str] = show_percent,
    what: str = "unlabelled images",
) -> Claim:
    """Unlabelled images, or teachers' answers for them, help beyond a control without them.

    One test of the mean difference over the label fractions: a test at each would have less power,
    and several chances to err. Held where the mean is certainly above 0, refuted where it certainly
    is not, unless the opposite is certain at a fraction: whoever has so many labels would be misled
    by the mean. Each fraction's own interval is corrected for their number (Bonferroni).

    Args:
        control: what the help is beyond.
        pairs: cells and their controls, by label fraction.
        missing: why there are no pairs.
        what: what helps.
    """
    text = f"{semi}: {what} help beyond {control}"
    if not pairs:
        return Claim(dataset, text, "not tested", [missing])
    strict_level = 1 - (1 - LEVEL) / len(pairs)
    strict = {f: compare(*pairs[f], strict_level) for f in sorted(pairs)}
    evidence = [f"{show(fraction)}: {show_difference(each)}" for fraction, each in strict.items()]
    if len(pairs) > 1:
        evidence.append(f"the intervals of these {len(pairs)} hold together at {LEVEL:.0%}")
    mean = mean_difference(list(pairs.values()))
    if mean is None:
        lacking = "one seed at one label fraction does not show how much trainings scatter"
        return Claim(
            dataset, text, "undecided", [*evidence, f"{lacking}: add seeds: 3"], None, strict
        )
    helps, hurts = mean.interval.low > 0, mean.interval.high <= 0
    verdict: Verdict = "held" if helps else "refuted" if hurts else "undecided"
    is_unlike = (helps and any(each.interval.high < 0 for each in strict.values())) or (
        hurts and any(each.interval.low > 0 for each in strict.values())
    )
    if len(pairs) > 1 or mean.is_vague:
        evidence.insert(0, f"on average {show_difference(mean)}")
    if is_unlike:
        verdict = "undecided"
        evidence.append("not alike at every fraction")
    elif verdict == "undecided" and not mean.is_vague:
        evidence.append(f"so at most {show_points(100 * mean.interval.high)} points")
    return Claim(dataset, text, verdict, evidence, mean, strict, is_unlike)


def mean_difference(pairs: Sequence[tuple[Weighted, Weighted]]) -> Comparison | None:
    """The mean over label fractions of first cells minus second ones.

    Seeds repeat the training of one winner each, not the luck of the search that chose it, which
    shows in how far the fractions' differences scatter: the interval is never narrower than 1.96
    standard errors of these (docs/results.md has what that holds and costs). With one seed each,
    the fractions take the place of seeds. One seed at one fraction shows nothing of that, and
    gives None.
    """
    if any(len(cell) > 1 for pair in pairs for cell in pair):
        share = 1 / len(pairs)
        weights = [sign * share for _ in pairs for sign in (1, -1)]
        mean = contrast(weights, [cell for pair in pairs for cell in pair])
        return _as_wide_as(mean, [float(first.mean() - second.mean()) for first, second in pairs])
    if len(pairs) < 2:
        return None
    differences = [first.right[0].astype(float) - second.right[0] for first, second in pairs]
    score = replace(pairs[0][0], right=np.stack(differences))
    return replace(contrast([1.0], [score]), seeds=1)


def _as_wide_as(mean: Comparison, differences: Sequence[float]) -> Comparison:
    """The mean, no surer than the scatter of the differences that it is the mean of."""
    if len(differences) < 2:
        return mean
    error = float(np.std(differences, ddof=1)) / len(differences) ** 0.5
    half = quantile(float("inf")) * error
    if half <= mean.interval.high - mean.difference:
        return mean
    interval = Interval(mean.difference - half, mean.difference + half)
    p = float(2 * stats.norm.sf(abs(mean.difference) / error))
    return replace(mean, interval=interval, p=max(mean.p, p))


def beats(
    dataset: str,
    semi: str,
    base: str,
    first: ByFraction,
    second: ByFraction,
    show: Callable[[Fraction], str] = show_percent,
) -> Claim:
    """Semi-ViT is above ViT at every label fraction; ``show`` names a fraction."""
    text = f"{semi} beats {base} at every label fraction"
    both = sorted(first.keys() & second.keys())
    pairs = {show(fraction): (first[fraction], second[fraction]) for fraction in both}
    return _judge(dataset, text, pairs, 0.0, "no label fraction has both")


def half_is_enough(
    dataset: str,
    semi: str,
    base: str,
    first: ByFraction,
    second: ByFraction,
    margin: float,
    show: Callable[[Fraction, Fraction], str] = lambda half, whole: (
        f"{show_percent(half)} against {show_percent(whole)}"
    ),
) -> Claim:
    """Semi-ViT with a fraction of the train labels matches ViT with twice as many.

    It matches where it is certainly at most ``margin``, a share, below. Val labels are no part of
    that half; ``show`` names two fractions.
    """
    text = f"{semi} with half the train labels matches {base} (within {show_margin(margin)})"
    pairs = {
        show(half, 2 * half): (first[half], second[2 * half])
        for half in sorted(first)
        if 2 * half in second
    }
    return _judge(dataset, text, pairs, -margin, "no fraction has its double")


def as_good_as_teacher(
    dataset: str,
    student: str,
    teachers: Sequence[str],
    pairs: Mapping[str, tuple[Weighted, Weighted]],
    margin: float,
) -> Claim:
    """A distilled model matches the best of its teachers on val, at every label fraction.

    It matches where it is certainly at most ``margin``, a share, below (non-inferiority).

    Args:
        pairs: student and teacher, by what the figures of each pair are called.
    """
    whose = "its teacher" if len(teachers) == 1 else "the best of its teachers"
    text = f"{student} is as good as {whose}, {', '.join(teachers)} (within {show_margin(margin)})"
    return _judge(dataset, text, pairs, -margin, "no teacher that has learnt is finished with it")


def _judge(
    dataset: str,
    text: str,
    pairs: Mapping[str, tuple[Weighted, Weighted]],
    threshold: float,
    missing: str,
) -> Claim:
    """Held where all first cells are certainly above the second, refuted where one is below."""
    if not pairs:
        return Claim(dataset, text, "not tested", [missing])
    comparisons = {name: compare(first, second) for name, (first, second) in pairs.items()}
    strict_level = 1 - (1 - LEVEL) / len(pairs)
    verdict: Verdict = "undecided"
    if all(_is_above(comparison, threshold) for comparison in comparisons.values()):
        verdict = "held"
    elif any(compare(*both, strict_level).interval.high < threshold for both in pairs.values()):
        verdict = "refuted"
    evidence = [f"{name}: {show_difference(each)}" for name, each in comparisons.items()]
    return Claim(dataset, text, verdict, evidence)


def _is_above(comparison: Comparison, threshold: float) -> bool:
    if threshold == 0:  # by the exact test where there is one
        return comparison.difference > 0 and comparison.p < 1 - LEVEL
    return comparison.interval.low > threshold


def more_helps_then_hurts(
    dataset: str, name: str, curve: PoolCurve, cells: Mapping[int, Weighted]
) -> Claim:
    """More unlabelled images help up to a point, then hurt.

    Held where the best pool is certainly better than both the smallest and the largest; refuted
    where it is one of these two and certainly better than the other.
    """
    text = f"{name}: more unlabelled images help up to a point, then hurt"
    if len(curve.pools) < 3:
        return Claim(dataset, text, "not tested", ["it takes three sizes of the pool"])
    first, last, best = curve.pools[0], curve.pools[-1], curve.best
    level = 1 - (1 - LEVEL) / len(curve.pools)  # the best is chosen among them
    whole = compare(cells[last], cells[first])
    evidence = [f"{first:,} to {last:,} images: {show_difference(whole)}"]
    if best in (first, last):
        verdict: Verdict = "refuted" if whole.p < 1 - LEVEL else "undecided"
        return Claim(dataset, text, verdict, evidence)
    rise = compare(cells[best], cells[first], level)
    fall = compare(cells[last], cells[best], level)
    evidence = [
        f"{first:,} to {best:,} images: {show_difference(rise)}",
        f"{best:,} to {last:,} images: {show_difference(fall)}",
        *evidence,
    ]
    held = rise.interval.low > 0 and fall.interval.high < 0
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
    strict_level = 1 - (1 - LEVEL) / len(classes)
    intervals = {each: accuracy_interval(plain(right)) for each, right in classes.items()}
    verdict: Verdict = "undecided"
    if all(interval.high < 0.5 for interval in intervals.values()):
        verdict = "held"
    elif any(
        accuracy_interval(plain(right), strict_level).low >= 0.5 for right in classes.values()
    ):
        verdict = "refuted"
    evidence = [
        f"{each}: {classes[each].mean():.1%} of {classes[each].shape[1]} test images "
        f"({interval.low:.1%} to {interval.high:.1%})"
        for each, interval in intervals.items()
    ]
    return Claim(dataset, text, verdict, evidence)
