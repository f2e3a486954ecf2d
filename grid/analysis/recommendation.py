"""Which of all finished cells of a dataset to use, in a few sentences, and what it cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from semigrid.grid.analysis.comparisons import comparer
from semigrid.grid.analysis.families import chance_of, learnt_cells
from semigrid.grid.analysis.frontier import Costs, name_with_pool
from semigrid.grid.analysis.numbers import (
    ONE_SEED,
    show_basis,
    show_margin,
    show_points,
    show_points_range,
)
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Comparison

_ROUGH = 0.2  # the width of a score's interval from which a model may have learnt unseen

# "cannot be said": the intervals say nothing
Verdict = Literal["use", "only one", "cannot be said", "nothing learnt"]


@dataclass(frozen=True)
class Recommendation:
    """The cell to use on a dataset: of those that score within a margin of the best, the cheapest.

    The cheapest is the one with the fewest labels and, of these, the lowest price or, where a
    device has none, the fewest device-seconds, its parents' included. ``row`` is that cell, None
    where the ``verdict`` names none. ``possible`` is the highest of the cheaper ones, where it is
    not certain that it is further below the best than the margin. ``against`` and ``possibly`` are
    the differences of the two from ``best``, None for itself.
    """

    dataset: str
    text: str
    verdict: Verdict
    row: CellResult | None = None
    best: CellResult | None = None
    against: Comparison | None = None
    possible: CellResult | None = None
    possibly: Comparison | None = None
    price: float | None = None


def recommend(results: ResultSet, dataset: str, margin: float) -> Recommendation | None:
    """The recommendation for a dataset; None where nothing is finished.

    The best cell was picked by its score, and so were those that are held against it: all pairs of
    cells are compared together, see ``comparer``.

    Args:
        margin: how much worse, as a share, than the best a cell may be.
    """
    rows = [r for r in results.rows if r.cell.dataset == dataset and r.has_predictions]
    if not rows:
        return None
    learnt = learnt_cells(rows)
    costs = Costs(results)
    able = _by_cost(costs, [row for row in rows if row.cell in learnt])
    if not able:
        return Recommendation(dataset, _nothing_learnt(rows), "nothing learnt")
    found = _recommended(costs, dataset, able, margin)
    if found.row is not None and costs.are_prices:
        found = replace(found, price=costs.of(found.row))
    text = found.text
    guessing = [row.cell.name for row in rows if row.cell not in learnt]
    if guessing:
        text += f" Not certainly above chance, and left out: {', '.join(guessing)}."
    return replace(found, text=text)


def _by_cost(costs: Costs, rows: Sequence[CellResult]) -> list[CellResult]:
    """By labels, then by what training took; of equals, the higher score comes first."""
    return sorted(rows, key=lambda row: (row.labeled_images, costs.of(row), -row.balanced.mean()))


def _highest(rows: Iterable[CellResult]) -> CellResult:
    return max(rows, key=lambda row: row.balanced.mean())


def _recommended(
    costs: Costs, dataset: str, able: Sequence[CellResult], margin: float
) -> Recommendation:
    """Of cells that have learnt, by cost."""
    best = _highest(able)
    take = f"For predict and export it is {best.cell.name}."
    if len(able) == 1:
        text = f"The only finished model that has learnt is {_describe(costs, best)}. {take}"
        return Recommendation(dataset, text, "only one", best, best)
    compared = comparer({row.cell: row.balanced for row in able})
    against = {row.cell: compared(row.cell, best.cell) for row in able if row is not best}

    def is_within(row: CellResult) -> bool:
        found = against.get(row.cell)
        return found is None or (found.difference >= -margin and not found.is_vague)

    chosen = next(row for row in able if is_within(row))
    # the best is held against the next, the others against the best
    following = _highest(row for row in able if row is not best)
    decides = against.get(chosen.cell) or against[following.cell]
    if decides.is_vague:
        text = (
            f"Which of {len(able)} cells to use cannot be said from {show_basis(decides)}; the "
            f"highest is {_describe(costs, best)}. {take}"
        )
        return Recommendation(dataset, text, "cannot be said", best=best)
    points, of_all = show_margin(margin), f"the highest of {len(able)} cells"
    text = f"Use {_describe(costs, chosen)}. "
    if chosen is best:
        text += f"It is {of_all}; the next is {_name(costs, following)}: {_show(decides, able)}."
    else:
        fewest = chosen.labeled_images < best.labeled_images
        text += (
            f"It {'has the fewest labels' if fewest else 'is the cheapest to train'} of those "
            f"within {points} of {of_all}, {_name(costs, best)}: {_show(decides, able)}."
        )
    cheaper = able[: able.index(chosen)]
    possible = possibly = None
    if cheaper:
        # of those that cost less nobody would use another one
        highest = _highest(cheaper)
        below = against[highest.cell]
        is_next = chosen is best and highest is following  # whose difference has been said
        if below.interval.high < -margin:
            if is_next:
                text += " That one is cheaper, but"
            else:
                text += f" The highest of the cheaper ones, {_name(costs, highest)}, is"
            text += f" certainly more than {points} below."
        elif not below.is_vague:
            possible, possibly = highest, below
            fewer = possible.labeled_images < chosen.labeled_images
            text += f" {'With fewer labels' if fewer else 'Cheaper to train'}, "
            if is_next:
                text += "that one may still do."
            else:
                text += f"{_describe(costs, possible)} may still do: {_show(possibly, able)}."
    if decides.seeds == 1:
        text += f" {ONE_SEED}"
    text += f" For predict and export it is {chosen.cell.name}."
    return Recommendation(
        dataset, text, "use", chosen, best, against.get(chosen.cell), possible, possibly
    )


def _show(against: Comparison, able: Sequence[CellResult]) -> str:
    whose = "95% interval" + " for all pairs together" * (len(able) > 2)
    return (
        f"{show_points(100 * against.difference)} points ({whose} "
        f"{show_points_range(against.interval)})"
    )


def _name(costs: Costs, row: CellResult) -> str:
    """``semi-vit with 300 unlabelled images and 214 labels``."""
    name = name_with_pool(costs.results.plan, row)
    has_pool = row.cell.unlabeled is not None and row.cell.control is None
    return f"{name} {'and' if has_pool else 'with'} {row.labeled_images:,} labels"


def _describe(costs: Costs, row: CellResult) -> str:
    """``vit with 214 labels (91.7% after 4.5 min of CPU cores)``."""
    after = f" after {costs.show(row)}" if row.with_parents else ""
    return f"{_name(costs, row)} ({row.balanced.mean():.1%}{after})"


def _nothing_learnt(rows: Sequence[CellResult]) -> str:
    best = max(rows, key=lambda row: row.balanced.mean())
    images, share, interval = best.right.shape[1], best.balanced.mean(), best.interval
    few = interval is not None and interval.high - interval.low > _ROUGH
    return (
        f"No model has demonstrably learnt anything: none of the finished cells ({len(rows)}) is "
        f"certainly above chance, {chance_of(best):.1%}, on {images:,} test images; the highest, "
        f"{best.cell.name}, is at {share:.1%}. Try more labels, a pretrained backbone or longer "
        "training, and check the labels."
        + (" With so few test images, learning might not show." if few else "")
    )
