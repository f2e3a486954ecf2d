"""Which of all finished models of a dataset to use, in one sentence, and what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from semigrid.grid.analysis.families import chance_of, learnt_cells
from semigrid.grid.analysis.frontier import Costs, name_with_pool
from semigrid.grid.analysis.numbers import (
    show_basis,
    show_margin,
    show_points,
    show_points_range,
)
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, Comparison, compare
from semigrid.grid.experiment.bill import show_bill
from semigrid.grid.study.plan import Cell

_ROUGH = 0.2  # the width of a score's interval from which a model may have learnt unseen


@dataclass(frozen=True)
class Recommendation:
    """The model to use on a dataset: of those that score within a margin of the best, the cheapest.

    The cheapest is the one with the fewest labels and, of these, the lowest price or, where a
    device has none, the fewest device-seconds, its parents' included. ``possible`` is the cheapest
    that may be as good, since it is not certainly further below the best than the margin, of the
    highest of the cheaper ones with each number of labels: one that scatters widely may be
    anything, and so says nothing where a steadier one scores more.
    ``against`` and ``possibly`` are the differences of the two from ``best``, None for itself.
    Where no model has learnt, all are None.
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
    able = _by_cost(results, [row for row in rows if row.cell in learnt])
    if not able:
        return Recommendation(dataset, _nothing_learnt(rows))
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
    cheaper = able[: able.index(chosen)]
    by_labels = groupby(cheaper, key=lambda row: row.labeled_images)
    highest = [max(alike, key=lambda row: row.balanced.mean()) for _, alike in by_labels]
    possible = next((row for row in highest if is_within(row, possibly=True)), chosen)
    found = Recommendation(
        dataset,
        "",
        chosen,
        best,
        against.get(chosen.cell),
        possible,
        against.get(possible.cell),
    )
    text = f"{_sentence(results, found, able, against, margin)}."
    guessing = [row.cell.name for row in rows if row.cell not in learnt]
    if guessing:
        text += f" Not certainly above chance, and left out: {', '.join(guessing)}."
    return replace(found, text=text)


def _by_cost(results: ResultSet, rows: Sequence[CellResult]) -> list[CellResult]:
    """By labels, then by what training took; of equals, the higher score comes first."""
    took = Costs(results).of
    return sorted(rows, key=lambda row: (row.labeled_images, took(row), -row.balanced.mean()))


def _sentence(
    results: ResultSet,
    found: Recommendation,
    able: Sequence[CellResult],
    against: Mapping[Cell, Comparison],
    margin: float,
) -> str:
    """Of ``able``, by cost; ``against`` are their differences from the best."""
    chosen, best, possible = found.row, found.best, found.possible
    assert chosen is not None and best is not None and possible is not None
    points, models = show_margin(margin), f"{len(able)} trained models"
    if len(able) == 1:
        return f"The only finished model that has learnt is {_describe(results, best)}"
    # the best is held against the next, the others against the best
    following = max((row for row in able if row is not best), key=lambda r: r.balanced.mean())
    told = [found.against or against[following.cell], found.possibly]
    if vague := [each for each in told if each is not None and each.is_vague]:
        return (
            f"Which of {models} to use cannot be said from {show_basis(vague[0])}; the "
            f"highest is {_describe(results, best)}"
        )
    text = f"Use {_describe(results, chosen)}, "
    if found.against is None:
        text += f"the highest of {models}"
    elif chosen.labeled_images < best.labeled_images:
        text += f"the one of {models} with the fewest labels within {points} of the highest, "
    else:
        text += f"of {models} within {points} of the highest the cheapest to train, "
    if found.against is not None:
        text += f"which is {_name(results, best)}: {_show(found.against, len(able))}"
    if found.possibly is not None and possible is not chosen:
        fewer = possible.labeled_images < chosen.labeled_images
        return (
            f"{text}; {'with fewer labels' if fewer else 'cheaper to train'}, "
            f"{_describe(results, possible)} may still do: {_show(found.possibly, len(able))}"
        )
    if chosen is not able[0]:
        cheaper = len({row.labeled_images for row in able[: able.index(chosen)]})
        which = "the highest of those that are cheaper"
        if cheaper > 1:
            which += ", with each number of labels,"
        return f"{text}; {which} is certainly more than {points} worse"
    if chosen is best:
        text += (
            f"; the next is {_name(results, following)}: "
            f"{_show(against[following.cell], len(able))}"
        )
    return text


def _show(against: Comparison, models: int) -> str:
    whose = "95% interval" + (" for all comparisons together" if models > 2 else "")
    return (
        f"{show_points(100 * against.difference)} points ({whose} "
        f"{show_points_range(against.interval)})"
    )


def _name(results: ResultSet, row: CellResult) -> str:
    """``semi-vit with 300 unlabelled images and 214 labels``."""
    name = name_with_pool(results.plan, row)
    has_pool = row.cell.unlabeled is not None and row.cell.control is None
    return f"{name} {'and' if has_pool else 'with'} {row.labeled_images:,} labels"


def _describe(results: ResultSet, row: CellResult) -> str:
    """``vit trained for longer with 214 labels (91.7% after 4.5 min of CPU cores)``."""
    took = show_bill(row.with_parents, results.plan.experiment.file.prices)
    after = f" after {took}" if row.with_parents else ""
    return f"{_name(results, row)} ({row.balanced.mean():.1%}{after})"


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
