"""How numbers are written wherever people read them."""

from collections.abc import Sequence
from fractions import Fraction

from semigrid.grid.analysis.statistics import Comparison, Interval, mean, std
from semigrid.grid.experiment.schema import show_percent

NONE = "—"  # stands for a missing number
ONE_SEED = "With a single seed, this holds for these particular trainings only; set `seeds: 3`."


def show_number(number: float | None, digits: int = 2) -> str:
    return NONE if number is None else f"{number:.{digits}f}"


def show_count(count: float) -> str:
    """A number of images or labels: ``1,204``, ``−12``."""
    return f"{count:,.0f}".replace("-", "−")


def show_scores(scores: Sequence[float], digits: int = 2) -> str:
    """Mean and spread over seeds: ``95.50 ± 1.32``, with one seed ``95.50``."""
    spread = std(scores)
    return show_number(mean(scores), digits) + ("" if spread is None else f" ± {spread:.{digits}f}")


def show_interval(interval: Interval | None, digits: int = 1) -> str:
    """The interval of a share, in per cent: ``93.1–97.2``."""
    if interval is None:
        return NONE
    return f"{100 * interval.low:.{digits}f}–{100 * interval.high:.{digits}f}"


def show_points(points: float, digits: int = 2) -> str:
    """A difference in points: ``+1.50``, ``−0.70``."""
    return f"{round(points, digits) + 0.0:+.{digits}f}".replace("-", "−")


def show_points_range(interval: Interval, digits: int = 2) -> str:
    """The interval of a difference of shares, in points: ``−0.30 to +2.10``."""
    return " to ".join(show_points(100 * end, digits) for end in (interval.low, interval.high))


def show_percents(fractions: Sequence[Fraction]) -> str:
    """``25%, 50% and 75%``."""
    shown = [show_percent(fraction) for fraction in fractions]
    return " and ".join([*([", ".join(shown[:-1])] if shown[1:] else []), *shown[-1:]])


def show_margin(margin: float) -> str:
    """A share as ``1 point`` or ``2.5 points``."""
    return f"{100 * margin:g} point{'' if margin == 0.01 else 's'}"


def show_basis(comparison: Comparison) -> str:
    """What a comparison rests on: ``200 test images and 1 seed``."""
    images, seeds = comparison.images, comparison.seeds
    return (
        f"{images:,} test image{'' if images == 1 else 's'} and "
        f"{seeds:,} seed{'' if seeds == 1 else 's'}"
    )


def show_difference(comparison: Comparison) -> str:
    """``+1.50 points (−0.30 to +2.10)``, or that it cannot be said, where that says nothing."""
    if comparison.is_vague:
        return f"cannot be said from {show_basis(comparison)}"
    points = show_points(100 * comparison.difference)
    return f"{points} points ({show_points_range(comparison.interval)})"


def show_p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "<0.001"
