"""The answer: how many labels a semi-supervised model saves, and what its pool is good for."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from semigrid.grid.analysis.claims import (
    Claim,
    beats,
    half_is_enough,
    more_helps_then_hurts,
    rare_classes_fail,
)
from semigrid.grid.analysis.classes import RARE, class_results
from semigrid.grid.analysis.labels_saved import Needed, labels_needed
from semigrid.grid.analysis.numbers import show_points, show_points_range
from semigrid.grid.analysis.pool_curve import PoolCurve, pool_curve
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Right, compare
from semigrid.grid.experiment.label_count import val_labels_for
from semigrid.grid.experiment.schema import show_percent
from semigrid.trainers.methods import METHODS

MARGIN = 0.01  # the loss, as a share, within which a model still matches another


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
        if self.needed is None or self.needed.labels is None:
            return None
        return self.needed.labels - self.row.labeled_images


@dataclass(frozen=True)
class Headline:
    """One dataset's answer for one semi-supervised model, in a sentence or two.

    ``saving`` is that of the cell with the fewest labels that is at least as good as the baseline
    with the most, and None where there is none. Without finished cells there is no answer yet.
    """

    dataset: str
    model: str
    text: str
    saving: Saving | None = None
    is_answer: bool = True


@dataclass(frozen=True)
class PoolEffect:
    """What more unlabelled images do for a model at one label fraction; rows are by their pool."""

    dataset: str
    name: str
    rows: list[CellResult]
    curve: PoolCurve
    text: str


@dataclass(frozen=True)
class Answer:
    headlines: list[Headline]
    savings: list[Saving]
    pools: list[PoolEffect]
    claims: list[Claim]


@dataclass(frozen=True)
class _Match:
    """A semi-supervised model and its baseline on one dataset: their cells with predictions."""

    dataset: str
    model: str
    baseline: str
    semi: list[CellResult]  # by labels, then by pool
    base: list[CellResult]  # by labels


def answer(results: ResultSet, margin: float = MARGIN) -> Answer:
    """The answer that the predictions of all finished cells give.

    Args:
        margin: how much worse, as a share from 0 to 1, a model may be and still match another.
    """
    found = Answer([], [], [], [])
    for match in _matches(results):
        savings = [Saving(row, match.baseline, _needed(results, match, row)) for row in match.semi]
        pools = _pool_effects(match)
        found.headlines.append(_headline(match, savings, margin))
        found.savings.extend(savings)
        found.pools.extend(pools)
        found.claims.extend(_claims(match, pools, margin))
    for row in _best_without_controls(results):
        classes = class_results(results, row)
        rare = {each.name: each.right for each in classes if each.train_share < RARE}
        found.claims.append(rare_classes_fail(row.cell.dataset, row.cell.name, rare, RARE))
    return found


def _needed(results: ResultSet, match: _Match, row: CellResult) -> Needed | None:
    """All labels, of train and val, that the baseline needs to reach a cell."""
    experiment = results.plan.experiment
    baseline = {row.label_count.train: row.balanced for row in match.base}
    needed = labels_needed(row.balanced, baseline)
    return needed and needed.with_val(lambda n: val_labels_for(experiment, match.dataset, n))


def _matches(results: ResultSet) -> Iterator[_Match]:
    cells = [row for row in results.rows if row.cell.control is None]

    def finished(dataset: str, model: str) -> list[CellResult]:
        of_dataset = [row for row in cells if row.cell.dataset == dataset]
        rows = [row for row in of_dataset if row.cell.model == model and row.has_predictions]
        return sorted(rows, key=lambda row: (row.labeled_images, row.pool_images or 0))

    asked = {(row.cell.dataset, row.cell.model) for row in cells}
    for dataset in results.datasets:
        for model, config in results.plan.experiment.file.models.items():
            has_pool = METHODS[config.method].needs_pool
            if config.from_ is not None and has_pool and (dataset, model) in asked:
                semi, base = finished(dataset, model), finished(dataset, config.from_)
                yield _Match(dataset, model, config.from_, semi, base)


def _best_without_controls(results: ResultSet) -> Iterator[CellResult]:
    """The best cell of each dataset that has a finished one, controls aside."""
    cells = [row for row in results.rows if row.cell.control is None and row.has_predictions]
    for dataset in results.datasets:
        of_dataset = [row for row in cells if row.cell.dataset == dataset]
        if of_dataset:
            yield max(of_dataset, key=lambda row: row.balanced.mean())


def _headline(match: _Match, savings: list[Saving], margin: float) -> Headline:
    dataset, model, base = match.dataset, match.model, match.baseline
    if not match.semi or not match.base:
        lacking = model if not match.semi else base
        text = f"{dataset}: no answer yet: no cell of {lacking} is finished"
        return Headline(dataset, model, text, is_answer=False)
    full = match.base[-1]
    goal = float(full.balanced.mean())
    reached = next((saving for saving in savings if saving.acc1 >= goal), None)
    shown = reached or max(savings, key=lambda saving: saving.acc1)
    labels = shown.row.labeled_images
    against = compare(shown.row.balanced, full.balanced)
    share = show_percent(shown.row.cell.labels)
    if reached is None:
        start = f"{model} replaces no labels here"
    elif labels >= full.labeled_images:
        start = f"{model} saves no labels"
    elif against.interval.low >= -margin:
        start = f"{share} of the train labels are enough"
    else:
        start = f"{share} of the train labels may be enough, but a loss cannot be excluded"
    text = (
        f"{dataset}: {start}. {model} with {labels:,} labels "
        f"({share}: {shown.row.label_count}) and {shown.row.pool_images:,} unlabelled images is at "
        f"{shown.acc1:.1%}, {base} with "
        f"{full.labeled_images:,} ({show_percent(full.cell.labels)}: {full.label_count.train:,} "
        f"and {full.label_count.val:,}) is at {goal:.1%} "
        f"(difference {show_points(100 * against.difference)} points, 95% interval "
        f"{show_points_range(against.interval)})."
    )
    if reached is not None and reached.needed is not None:
        text += " " + reached.needed.text(base, labels)
    elif reached is not None:
        text += f" What {base} would need for that takes two label fractions of it to say."
    return Headline(dataset, model, text, reached)


def _pool_effects(match: _Match) -> list[PoolEffect]:
    effects = []
    for fraction in dict.fromkeys(row.cell.labels for row in match.semi):
        rows = [row for row in match.semi if row.cell.labels == fraction]
        curve = pool_curve(_by_pool(rows))
        if curve is not None:
            name = f"{match.model} with {show_percent(fraction)} of the train labels"
            text = curve.text(f"{match.dataset}: {name}")
            effects.append(PoolEffect(match.dataset, name, rows, curve, text))
    return effects


def _by_pool(rows: list[CellResult]) -> dict[int, Right]:
    return {row.pool_images or 0: row.balanced for row in rows}


def _claims(match: _Match, pools: list[PoolEffect], margin: float) -> list[Claim]:
    names = match.dataset, match.model, match.baseline
    # of several pools, the smallest
    semi = {row.cell.labels: row.balanced for row in reversed(match.semi)}
    base = {row.cell.labels: row.balanced for row in match.base}
    used = {row.cell.labels: row.labeled_images for row in [*match.semi, *match.base]}

    def show(fraction: Fraction) -> str:
        return f"{show_percent(fraction)} ({used[fraction]:,} labels)"

    return [
        beats(*names, semi, base, show),
        half_is_enough(*names, semi, base, margin, show),
        *(more_helps_then_hurts(p.dataset, p.name, p.curve, _by_pool(p.rows)) for p in pools),
    ]
