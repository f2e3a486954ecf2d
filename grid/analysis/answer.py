"""The answer: how many labels a semi-supervised model saves, and what its pool is good for."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from semigrid.grid.analysis import sentences
from semigrid.grid.analysis.claims import (
    Claim,
    beats,
    half_is_enough,
    more_helps_then_hurts,
    rare_classes_fail,
)
from semigrid.grid.analysis.classes import RARE, class_lines
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.labels_saved import Needed, labels_needed
from semigrid.grid.analysis.pool_curve import PoolCurve, pool_curve
from semigrid.grid.analysis.results import Row
from semigrid.grid.analysis.statistics import Comparison, Interval, compare
from semigrid.grid.experiment import show_percent
from semigrid.grid.study.plan import Cell
from semigrid.trainers.methods import METHODS

MARGIN = 0.01  # a loss of a point is what "as good as" may cost


@dataclass(frozen=True)
class Saving:
    """A semi-supervised cell, and how many labels its baseline would need for the same."""

    cell: Cell
    baseline: str  # the model that it starts from
    labels: int
    pool: int
    acc1: float  # a share
    interval: Interval
    needed: Needed | None

    @property
    def saved(self) -> float | None:
        if self.needed is None or self.needed.labels is None:
            return None
        return self.needed.labels - self.labels


@dataclass(frozen=True)
class Headline:
    """One dataset's answer for one semi-supervised model, in a sentence or two.

    ``saving`` is of the cell with fewest labels that is at least as good as the baseline with
    most, and None where none is; ``against`` compares the two.
    """

    dataset: str
    model: str
    text: str
    saving: Saving | None
    against: Comparison | None


@dataclass(frozen=True)
class Pool:
    """What more unlabelled images do for a model at one label fraction.

    ``cells`` has ``right``, (S, N), of each cell by the images in its pool.
    """

    dataset: str
    name: str
    cells: Mapping[int, np.ndarray]
    curve: PoolCurve
    text: str


@dataclass(frozen=True)
class Answer:
    headlines: list[Headline]
    savings: list[Saving]
    pools: list[Pool]
    claims: list[Claim]


@dataclass(frozen=True)
class _Matched:
    """A semi-supervised model and its baseline on one dataset, the cells with predictions."""

    dataset: str
    model: str
    baseline: str
    semi: list[Row]  # by labels, then by pool
    base: list[Row]  # by labels


def answer(known: Known, margin: float = MARGIN) -> Answer:
    """From the predictions of all finished cells.

    Args:
        margin: by how much, a share from 0 to 1, a model may be worse and still match another.
    """
    headlines, savings, pools, claims = [], [], [], []
    for matched in _matched(known):
        of_model = _savings(known, matched)
        savings += of_model
        headlines.append(_headline(known, matched, of_model, margin))
        of_pool = _pools(known, matched)
        pools += of_pool
        claims += _claims(known, matched, of_pool, margin)
    best = known.results.standings.best
    claims += [
        _rare(known, row) for row in known.results.rows if best.get(row.cell.dataset) == row.cell
    ]
    return Answer(headlines, savings, pools, claims)


def _matched(known: Known) -> list[_Matched]:
    models = known.plan.experiment.file.models
    rows = [row for row in known.results.rows if row.interval is not None]
    found = []
    for dataset in dict.fromkeys(row.cell.dataset for row in known.results.rows):
        for model, config in models.items():
            if config.from_ is None or not METHODS[config.method].needs_pool:
                continue
            of = [row for row in rows if row.cell.dataset == dataset]
            semi = [row for row in of if row.cell.model == model]
            base = [row for row in of if row.cell.model == config.from_]
            if any(row.cell.model == model for row in known.results.rows):
                found.append(
                    _Matched(
                        dataset,
                        model,
                        config.from_,
                        sorted(semi, key=lambda row: (row.labeled_images, row.pool_images or 0)),
                        sorted(base, key=lambda row: row.labeled_images),
                    )
                )
    return found


def _right(known: Known, row: Row) -> np.ndarray:
    right = known.measured.right(row.cell)
    assert right is not None  # rows with an interval have predictions
    return right


def _savings(known: Known, matched: _Matched) -> list[Saving]:
    baseline = {row.labeled_images: _right(known, row) for row in matched.base}
    found = []
    for row in matched.semi:
        right = _right(known, row)
        assert row.interval is not None and row.pool_images is not None
        needed = labels_needed(right, baseline)
        found.append(
            Saving(
                row.cell,
                matched.baseline,
                row.labeled_images,
                row.pool_images,
                float(right.mean()),
                row.interval,
                needed,
            )
        )
    return found


def _headline(known: Known, matched: _Matched, savings: list[Saving], margin: float) -> Headline:
    dataset, model, base = matched.dataset, matched.model, matched.baseline
    if not matched.semi or not matched.base:
        lacking = model if not matched.semi else base
        text = f"{dataset}: no answer yet: no cell of {lacking} is finished"
        return Headline(dataset, model, text, None, None)
    full = matched.base[-1]
    of_full = _right(known, full)
    share = show_percent(full.cell.labels)
    whole = f"{base} with {full.labeled_images:,} ({share}) is at {of_full.mean():.1%}"
    reached = next((each for each in savings if each.acc1 >= of_full.mean()), None)
    shown = reached or max(savings, key=lambda saving: saving.acc1)
    against = compare(_right(known, _row(matched, shown.cell)), of_full)
    share = show_percent(shown.cell.labels)
    if reached is None:
        start = f"{model} replaces no labels here"
    elif shown.labels >= full.labeled_images:
        start = f"{model} saves no labels"
    elif against.interval.low >= -margin:
        start = f"{share} of the labels are enough"
    else:
        start = f"{share} of the labels may be enough, but a loss cannot be excluded"
    text = (
        f"{dataset}: {start}. {model} with {shown.labels:,} labels ({share}) and {shown.pool:,} "
        f"unlabelled images is at {shown.acc1:.1%}, {whole} ({sentences.difference(against)})."
    )
    if reached is not None:
        text += " " + sentences.needed(shown.needed, base, shown.labels)
    return Headline(dataset, model, text, reached, against)


def _row(matched: _Matched, cell: Cell) -> Row:
    return next(row for row in matched.semi if row.cell == cell)


def _pools(known: Known, matched: _Matched) -> list[Pool]:
    found = []
    for fraction in dict.fromkeys(row.cell.labels for row in matched.semi):
        rows = [row for row in matched.semi if row.cell.labels == fraction]
        cells = {row.pool_images or 0: _right(known, row) for row in rows}
        curve = pool_curve(cells)
        if curve is not None:
            name = f"{matched.model} with {show_percent(fraction)} of the labels"
            text = sentences.pool(f"{matched.dataset}: {name}", curve)
            found.append(Pool(matched.dataset, name, cells, curve, text))
    return found


def _claims(
    known: Known,
    matched: _Matched,
    pools: list[Pool],
    margin: float,
) -> list[Claim]:
    names = matched.dataset, matched.model, matched.baseline
    semi: dict[Fraction, np.ndarray] = {}
    for row in matched.semi:  # the smallest pool comes first
        semi.setdefault(row.cell.labels, _right(known, row))
    base = {row.cell.labels: _right(known, row) for row in matched.base}
    found = [beats(*names, semi, base), half_is_enough(*names, semi, base, margin)]
    for pool in pools:
        found.append(more_helps_then_hurts(pool.dataset, pool.name, pool.curve, pool.cells))
    return found


def _rare(known: Known, row: Row) -> Claim:
    right = _right(known, row)
    test_set = known.measured.test_sets[row.cell.dataset]
    rare = {
        line.name: right[:, test_set.labels == test_set.classes.index(line.name)]
        for line in class_lines(known, row)
        if line.train_share < RARE
    }
    return rare_classes_fail(row.cell.dataset, row.cell.name, rare, RARE)
