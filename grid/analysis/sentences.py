"""The answer in sentences that a manager can take along."""

from semigrid.grid.analysis.labels_saved import Needed
from semigrid.grid.analysis.numbers import show_points, show_points_range
from semigrid.grid.analysis.pool_curve import PoolCurve


def needed_text(needed: Needed | None, baseline: str, labels: int) -> str:
    """How many labels the baseline would need to reach a cell that has ``labels``."""
    if needed is None:
        return f"What {baseline} would need for that takes two label fractions of it to say."
    interval = labels_range(needed)
    if interval is None:
        return (
            f"How many labels {baseline} would need for that cannot be said from these results: "
            "its accuracy does not rise with labels surely enough."
        )
    if needed.labels is None:
        return f"For that {baseline} would need {interval} labels (95% interval)."
    saved = needed.labels - labels
    verb = f"{saved:,.0f} saved" if saved >= 0 else f"{-saved:,.0f} lost"
    if needed.low is not None and needed.low > labels:
        verb += f", at least {needed.low - labels:,.0f}"
    beyond = ", extrapolated" if needed.extrapolated else ""
    return (
        f"For that {baseline} would need about {needed.labels:,.0f} labels (95% interval "
        f"{interval}{beyond}): {verb}."
    )


def labels_range(needed: Needed) -> str | None:
    """``180 to 420``, ``more than 180``, ``up to 420``; None where both ends are open."""
    if needed.low is None:
        return None if needed.high is None else f"up to {needed.high:,.0f}"
    if needed.high is None:
        return f"more than {needed.low:,.0f}"
    return f"{needed.low:,.0f} to {needed.high:,.0f}"


def pool_text(name: str, curve: PoolCurve) -> str:
    """What more unlabelled images do for a model."""
    doubling = show_points(100 * curve.doubling.difference)
    each = (
        f"a doubling of the pool changes it by {doubling} points "
        f"({show_points_range(curve.doubling.interval)})"
    )
    if curve.turn is not None:
        low = "the fewest" if curve.turn.low is None else f"{curve.turn.low:,.0f}"
        high = "beyond the most" if curve.turn.high is None else f"{curve.turn.high:,.0f}"
        return (
            f"{name}: more unlabelled images help up to about {curve.turn.images:,.0f} (95% "
            f"interval {low} to {high}), then hurt; {each}."
        )
    if curve.doubling.interval.low > 0:
        still = curve.at_end.interval.low > 0
        end = "and still do" if still else "though whether they still do is open"
        return f"{name}: more unlabelled images help, {end} at {curve.pools[-1]:,}; {each}."
    if curve.doubling.interval.high < 0:
        return f"{name}: more unlabelled images hurt; {curve.pools[0]:,} are enough; {each}."
    return (
        f"{name}: whether more unlabelled images help cannot be told between "
        f"{curve.pools[0]:,} and {curve.pools[-1]:,}; {each}."
    )
