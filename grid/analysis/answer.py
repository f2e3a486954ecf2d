"""The answer: how many labels a semi-supervised model saves, and what its pool is good for."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

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
from semigrid.grid.analysis.sentences import needed_text, pool_text
from semigrid.grid.analysis.statistics import Comparison, Interval, accuracy_interval, compare
from semigrid.grid.experiment import show_percent
from semigrid.trainers.methods import METHODS

MARGIN = 0.01  # the loss, as a share, within which a model still matches another


@dataclass(frozen=True)
class Saving:
    """A semi-supervised cell, and how many labels its baseline would need to reach it."""

    row: CellResult
    baseline: str
    needed: Needed | None

    @property
    def labels(self) -> int:
        return self.row.labeled_images

    @property
    def acc1(self) -> float:
        """A share."""
        return float(self.row.right.mean())

    @property
    def interval(self) -> Interval:
        return accuracy_interval(self.row.right)

    @property
    def saved(self) -> float | None:
        if self.needed is None or self.needed.labels is None:
            return None
        return self.needed.labels - self.labels


@dataclass(frozen=True)
class Headline:
    """One dataset's answer for one semi-supervised model, in a sentence or two.

    ``saving`` is that of the cell with the fewest labels that is at least as good as the baseline
    with the most, and None where there is none; ``against`` compares the two.
    """

    dataset: str
    model: str
    text: str
    saving: Saving | None = None
    against: Comparison | None = None


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

    @property
    def texts(self) -> list[str]:
        """The whole answer in sentences."""
        return [*(each.text for each in self.headlines), *(each.text for each in self.pools)]


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
    headlines, savings, pools, claims = [], [], [], []
    for match in _matches(results):
        of_model, of_pool = _savings(match), _pool_effects(match)
        headlines.append(_headline(match, of_model, margin))
        savings += of_model
        pools += of_pool
        claims += _claims(match, of_pool, margin)
    claims += [_rare_claim(results, row) for row in results.best]
    return Answer(headlines, savings, pools, claims)


def _matches(results: ResultSet) -> list[_Match]:
    matches = []
    for dataset in results.datasets:
        for model, config in results.plan.experiment.file.models.items():
            rows = [row for row in results.rows if row.cell.dataset == dataset]
            semi = [row for row in rows if row.cell.model == model]
            if not semi or config.from_ is None or not METHODS[config.method].needs_pool:
                continue
            base = [row for row in rows if row.cell.model == config.from_]
            semi, base = (
                sorted(
                    (row for row in of_model if row.has_predictions),
                    key=lambda row: (row.labeled_images, row.pool_images or 0),
                )
                for of_model in (semi, base)
            )
            matches.append(_Match(dataset, model, config.from_, semi, base))
    return matches


def _savings(match: _Match) -> list[Saving]:
    baseline = {row.labeled_images: row.right for row in match.base}
    return [Saving(row, match.baseline, labels_needed(row.right, baseline)) for row in match.semi]


def _headline(match: _Match, savings: list[Saving], margin: float) -> Headline:
    dataset, model, base = match.dataset, match.model, match.baseline
    if not match.semi or not match.base:
        lacking = model if not match.semi else base
        text = f"{dataset}: no answer yet: no cell of {lacking} is finished"
        return Headline(dataset, model, text)
    full = match.base[-1]
    goal = float(full.right.mean())
    reached = next((saving for saving in savings if saving.acc1 >= goal), None)
    shown = reached or max(savings, key=lambda saving: saving.acc1)
    against = compare(shown.row.right, full.right)
    share = show_percent(shown.row.cell.labels)
    if reached is None:
        start = f"{model} replaces no labels here"
    elif shown.labels >= full.labeled_images:
        start = f"{model} saves no labels"
    elif against.interval.low >= -margin:
        start = f"{share} of the labels are enough"
    else:
        start = f"{share} of the labels may be enough, but a loss cannot be excluded"
    text = (
        f"{dataset}: {start}. {model} with {shown.labels:,} labels ({share}) and "
        f"{shown.row.pool_images:,} unlabelled images is at {shown.acc1:.1%}, {base} with "
        f"{full.labeled_images:,} ({show_percent(full.cell.labels)}) is at {goal:.1%} "
        f"(difference {show_points(100 * against.difference)} points, 95% interval "
        f"{show_points_range(against.interval)})."
    )
    if reached is not None:
        text += " " + needed_text(shown.needed, base, shown.labels)
    return Headline(dataset, model, text, reached, against)


def _pool_effects(match: _Match) -> list[PoolEffect]:
    effects = []
    for fraction in dict.fromkeys(row.cell.labels for row in match.semi):
        rows = [row for row in match.semi if row.cell.labels == fraction]
        curve = pool_curve(_by_pool(rows))
        if curve is not None:
            name = f"{match.model} with {show_percent(fraction)} of the labels"
            text = pool_text(f"{match.dataset}: {name}", curve)
            effects.append(PoolEffect(match.dataset, name, rows, curve, text))
    return effects


def _by_pool(rows: list[CellResult]) -> dict[int, np.ndarray]:
    return {row.pool_images or 0: row.right for row in rows}


def _claims(match: _Match, pools: list[PoolEffect], margin: float) -> list[Claim]:
    names = match.dataset, match.model, match.baseline
    semi: dict[Fraction, np.ndarray] = {}
    for row in match.semi:  # the smallest pool comes first
        semi.setdefault(row.cell.labels, row.right)
    base = {row.cell.labels: row.right for row in match.base}
    return [
        beats(*names, semi, base),
        half_is_enough(*names, semi, base, margin),
        *(more_helps_then_hurts(p.dataset, p.name, p.curve, _by_pool(p.rows)) for p in pools),
    ]


def _rare_claim(results: ResultSet, row: CellResult) -> Claim:
    classes = class_results(results, row)
    rare = {each.name: each.right for each in classes if each.train_share < RARE}
    return rare_classes_fail(row.cell.dataset, row.cell.name, rare, RARE)
