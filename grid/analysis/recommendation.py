"""Which of all finished models of a dataset to use, in one sentence, and what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from semigrid.grid.analysis.families import chance_of, learnt_cells, name_of
from semigrid.grid.analysis.numbers import (
    show_basis,
    show_margin,
    show_points,
    show_points_range,
)
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, Comparison, compare
from semigrid.grid.status.cost import show_bill

_ROUGH = 0.2  # the width of a score's interval from which a model may have learnt unseen


@dataclass(frozen=True)
class Recommendation:
    """The model to use on a dataset: of those that score within a margin of the best, the cheapest.

    The cheapest is the one with the fewest labels and, of these, the fewest device-seconds, its
    parents' included. ``possible`` is the cheapest that may be as good, since it is not certainly
    further below the best than the margin; ``against`` and ``possibly`` are the differences of the
    two from ``best``, None for itself. Where no model has learnt, all are None.
    """

    dataset: str
    text: str
    row: CellResult | None = None
    best: CellResult | None = None
    against: Comparison | None = None
    possible: CellResult | None = None
    possibly: Comparison | None = None


def recommend(results: ResultSet, dataset: str, margin: float) -> Recommendation | None:
    """The recommendation for a dataset; None where nothing is finished.

    The best cell is the highest of many, and others are left out by their difference from it, so
    each is compared at a level at which all comparisons hold together (Bonferroni).

    Args:
        margin: how much worse, as a share, than the best a model may be.
    """
    rows = [r for r in results.rows if r.cell.dataset == dataset and r.has_predictions]
    if not rows:
        return None
    learnt = learnt_cells(rows)
    able = sorted((row for row in rows if row.cell in learnt), key=_cost)
    if not able:
        return Recommendation(dataset, f"{dataset}: {_nothing_learnt(rows)}")
    best = max(able, key=lambda row: row.balanced.mean())
    level = 1 - (1 - LEVEL) / max(1, len(able) - 1)
    against = {
        row.cell: compare(row.balanced, best.balanced, level) for row in able if row is not best
    }

    def is_within(row: CellResult, possibly: bool = False) -> bool:
        found = against.get(row.cell)
        if found is None:
            return True
        return (found.interval.high if possibly else found.difference) >= -margin

    chosen = next(row for row in able if is_within(row))
    possible = next(row for row in able if is_within(row, possibly=True))
    found = Recommendation(
        dataset,
        "",
        chosen,
        best,
        against.get(chosen.cell),
        possible,
        against.get(possible.cell),
    )
    text = f"{dataset}: {_sentence(results, found, able, margin)}."
    guessing = [row.cell.name for row in rows if row.cell not in learnt]
    if guessing:
        text += f" Not certainly above chance, and left out: {', '.join(guessing)}."
    return replace(found, text=text)


def _cost(row: CellResult) -> tuple[float, float, float]:
    """A sort key: labels, then device-seconds; of equals, the higher score comes first."""
    return row.labeled_images, sum(row.with_parents.values()), -row.balanced.mean()


def _sentence(
    results: ResultSet, found: Recommendation, able: Sequence[CellResult], margin: float
) -> str:
    """Of ``able``, by cost."""
    chosen, best, possible = found.row, found.best, found.possible
    assert chosen is not None and best is not None and possible is not None
    points, models = show_margin(margin), len(able)
    if models == 1:
        return f"the only finished model that has learnt is {_describe(results, best)}"
    vague = [c for c in (found.against, found.possibly) if c is not None and c.is_vague]
    if vague:
        return (
            f"which of {models} models to use cannot be said from {show_basis(vague[0])}; the "
            f"highest is {_describe(results, best)}"
        )
    text = f"use {_describe(results, chosen)}, "
    if found.against is None:
        text += f"the highest of {models} models"
    else:
        text += (
            f"of {models} models the cheapest within {points} of the highest, "
            f"{_name(results, best)} with {best.labeled_images:,} labels "
            f"({_show(found.against, models)})"
        )
    if chosen is able[0]:
        return text + (" and the cheapest" if chosen is best else "")
    if found.possibly is None or possible is chosen:
        return f"{text}; each cheaper one is certainly more than {points} worse"
    return (
        f"{text}; the cheapest that is not certainly more than {points} worse is "
        f"{_describe(results, possible)}: {_show(found.possibly, models)}"
    )


def _show(against: Comparison, models: int) -> str:
    together = " for all together" if models > 2 else ""
    return (
        f"{show_points(100 * against.difference)} points, {show_points_range(against.interval)} at "
        f"95%{together}"
    )


def _name(results: ResultSet, row: CellResult) -> str:
    """The model's, with its pool."""
    name, cell = name_of(results.plan, row), row.cell
    has_pool = cell.unlabeled is not None and cell.control is None
    return f"{name} with {row.pool_images:,} unlabelled images" if has_pool else name


def _describe(results: ResultSet, row: CellResult) -> str:
    """``vit trained for longer with 214 labels (91.7% after 4.5 min of CPU cores)``."""
    name = _name(results, row)
    took = show_bill(row.with_parents, results.plan.experiment.file.prices)
    return (
        f"{name} {'and' if ' with ' in name else 'with'} {row.labeled_images:,} labels "
        f"({row.balanced.mean():.1%}" + (f" after {took})" if row.with_parents else ")")
    )


def _nothing_learnt(rows: Sequence[CellResult]) -> str:
    best = max(rows, key=lambda row: row.balanced.mean())
    images, share, interval = best.right.shape[1], best.balanced.mean(), best.interval
    few = interval is not None and interval.high - interval.low > _ROUGH
    return (
        f"no model has learnt anything: none of {len(rows)} finished cells is certainly above "
        f"chance, {chance_of(best):.1%}, on {images:,} test images; the highest, {best.cell.name}, "
        f"is at {share:.1%}. Try more labels, a pretrained backbone or longer training, and check "
        "the labels." + (" So few test images would not show it, either." if few else "")
    )
