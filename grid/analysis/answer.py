"""The answer: which model to use, how many labels a pool saves, and what it is good for."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from semigrid.grid.analysis.claims import (
    Claim,
    as_good_as_teacher,
    beats,
    half_is_enough,
    helps_beyond,
    more_helps_then_hurts,
    rare_classes_fail,
)
from semigrid.grid.analysis.classes import RARE, class_results
from semigrid.grid.analysis.families import (
    ByFraction,
    Family,
    families,
    learnt_cells,
    trained_longer,
    what_helps,
)
from semigrid.grid.analysis.frontier import Frontier, frontiers
from semigrid.grid.analysis.headline import Headline, Saving, baseline_name, headline
from semigrid.grid.analysis.labels_saved import Needed, labels_needed
from semigrid.grid.analysis.pool_curve import PoolCurve, pool_curve
from semigrid.grid.analysis.recommendation import Recommendation, recommend
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Weighted
from semigrid.grid.experiment.label_count import labels_used, val_labels_for
from semigrid.grid.experiment.schema import Control, show_percent
from semigrid.grid.status.show import finished_of

MARGIN = 0.01  # the loss, as a share, within which a model still matches another


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
    """Sentences and figures; ``margin`` is the share within which models match.

    ``unfinished`` says of datasets with cells that are not finished how many are, and which failed.
    """

    margin: float
    unfinished: dict[str, str] = field(default_factory=dict)
    recommendations: list[Recommendation] = field(default_factory=list)
    frontiers: list[Frontier] = field(default_factory=list)
    headlines: list[Headline] = field(default_factory=list)
    savings: list[Saving] = field(default_factory=list)
    pools: list[PoolEffect] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    @property
    def datasets(self) -> list[str]:
        """Those that it says anything of."""
        said: list[Recommendation | Headline] = [*self.recommendations, *self.headlines]
        return list(dict.fromkeys([*(each.dataset for each in said), *self.unfinished]))

    def to_use(self, dataset: str) -> list[str]:
        """Which model to use and, with the most labels, what others are worth their time."""
        texts = [each.text for each in self.recommendations if each.dataset == dataset]
        most = [each for each in self.frontiers if each.dataset == dataset and each.models > 1]
        return texts + [each.text for each in most[-1:]]

    def of_pools(self, dataset: str) -> list[str]:
        """What labels the pool replaces, for each model with one, and what more of it does."""
        said: list[Headline | PoolEffect] = [*self.headlines, *self.pools]
        return [each.text for each in said if each.dataset == dataset]


def answer(results: ResultSet, margin: float = MARGIN) -> Answer:
    """The answer that the predictions of all finished cells give.

    Args:
        margin: how much worse, as a share from 0 to 1, a model may be and still match another.
    """
    found = Answer(margin, _unfinished(results), frontiers=list(frontiers(results, margin)))
    for family in families(results):
        savings = _savings(family)
        pools = _pool_effects(family)
        claims = _claims(family, pools, margin)
        found.headlines.append(headline(family, savings, claims[0], margin))
        found.savings.extend(savings)
        found.pools.extend(pools)
        found.claims.extend(claims)
    for dataset in results.datasets:
        recommendation = recommend(results, dataset, margin)
        if recommendation is not None:
            found.recommendations.append(recommendation)
    for row in _best_without_controls(results):
        classes = class_results(results, row)
        rare = {each.name: each.right for each in classes if each.train_share < RARE}
        found.claims.append(rare_classes_fail(row.cell.dataset, row.cell.name, rare, RARE))
    return found


def _unfinished(results: ResultSet) -> dict[str, str]:
    """``50 of 52 cells finished; failed: digits/vit/50%``, by dataset."""
    found = {}
    for dataset in results.datasets:
        rows = [row for row in results.rows if row.cell.dataset == dataset]
        if any(row.state != "finished" for row in rows):
            text = finished_of((row.cell.control, row.state) for row in rows)
            for state in ("failed", "blocked"):
                if names := [row.cell.name for row in rows if row.state == state]:
                    text += f"; {state}: {', '.join(names)}"
            found[dataset] = text + "."
    return found


def _savings(family: Family) -> list[Saving]:
    """Of each semi-supervised cell that has learnt."""
    if not family.alone:
        return []
    name = baseline_name(family)
    rows = [row for row in family.semi if row.cell in family.learnt]
    return [Saving(row, name, _needed(family, row)) for row in rows]


def _needed(family: Family, row: CellResult) -> Needed | None:
    """All labels, of train and val, that labels alone need to reach a cell."""
    experiment = family.plan.experiment
    baseline = {each.label_count.train: each.balanced for each in family.curve.values()}
    needed = labels_needed(row.balanced, baseline)
    return needed and needed.with_val(lambda n: val_labels_for(experiment, family.dataset, n))


def _best_without_controls(results: ResultSet) -> Iterator[CellResult]:
    """The best cell of each dataset in which one has learnt, controls aside."""
    for dataset in results.datasets:
        finished = [r for r in results.rows if r.cell.dataset == dataset and r.has_predictions]
        learnt = learnt_cells(finished)
        rows = [r for r in finished if r.cell.control is None and r.cell in learnt]
        if rows:
            yield max(rows, key=lambda row: row.balanced.mean())


def _pool_effects(family: Family) -> list[PoolEffect]:
    effects = []
    rows = [row for row in family.semi if row.cell in family.learnt]
    for fraction in dict.fromkeys(row.cell.labels for row in rows):
        alike = [row for row in rows if row.cell.labels == fraction]
        curve = pool_curve(_by_pool(alike))
        if curve is not None:
            name = f"{family.model} with {show_percent(fraction)} of the train labels"
            text = curve.text(name)
            effects.append(PoolEffect(family.dataset, name, alike, curve, text))
    return effects


def _by_pool(rows: list[CellResult]) -> dict[int, Weighted]:
    return {row.pool_images or 0: row.balanced for row in rows}


def _claims(family: Family, pools: list[PoolEffect], margin: float) -> list[Claim]:
    """The claims about a family, first that unlabelled images help beyond compute."""
    names = family.dataset, family.model
    experiment, learnt = family.plan.experiment, family.learnt
    semi, compute = family.smallest, family.controls["compute"]
    longer = trained_longer(family.plan, family.model)
    helps = what_helps(family.plan, family.model).removeprefix("the ")
    planned = {c.control for c in family.plan.cells if (c.dataset, c.model) == names}

    def rights(rows: ByFraction) -> dict[Fraction, Weighted]:
        return {fraction: row.balanced for fraction, row in rows.items()}

    def labels(fraction: Fraction) -> str:
        return f"{labels_used(experiment, family.dataset, fraction).total:,}"

    def show(fraction: Fraction) -> str:
        return f"{show_percent(fraction)} ({labels(fraction)} labels)"

    def show_half(half: Fraction, whole: Fraction) -> str:
        return (
            f"{show_percent(half)} against {show_percent(whole)} of train ({labels(half)} against "
            f"{labels(whole)} labels with val)"
        )

    beyond: dict[Control, str] = {
        "compute": f"compute ({longer} trained for as long)",
        "labeled-pool": "the labelled images as their own pool",
    }
    claims = [
        helps_beyond(*names, control_is, *_beside(family, control), show, helps)
        for control, control_is in beyond.items()
        if control == "compute" or control in planned
    ]
    # of two that guess, neither beats the other, and they match by doing nothing
    for base, rows in family.bases.items():
        one_learnt = {
            f: row for f, row in semi.items() if {row.cell, rows.get(f, row).cell} & learnt
        }
        claims.append(beats(*names, base, rights(one_learnt), rights(rows), show))
    bases = {**family.bases, f"{longer} trained for longer": compute}
    claims += [
        half_is_enough(
            *names,
            base,
            rights(semi),
            rights({f: row for f, row in rows.items() if row.cell in learnt}),
            margin,
            show_half,
        )
        for base, rows in bases.items()
        if rows or base == family.parent
    ]
    if teachers := experiment.file.models[family.model].teachers:
        pairs = {
            f"{show(fraction)}, {teacher.cell.model}": (row.balanced, teacher.balanced)
            for fraction, row in sorted(semi.items())
            if (teacher := family.teachers.get(row.cell)) is not None and teacher.cell in learnt
        }
        claims.append(as_good_as_teacher(*names, teachers, pairs, margin))
    claims += [more_helps_then_hurts(p.dataset, p.name, p.curve, _by_pool(p.rows)) for p in pools]
    return claims


def _beside(
    family: Family, control: Control
) -> tuple[dict[Fraction, tuple[Weighted, Weighted]], str]:
    """Cells and their controls, by label fraction, and why there are none."""
    pairs: dict[Fraction, tuple[Weighted, Weighted]] = {
        fraction: (row.balanced, beside.balanced)
        for fraction, (row, beside) in family.beside(control).items()
    }
    if control in family.plan.experiment.file.controls:
        return pairs, "no cell has learnt and is finished with its control"
    return pairs, f"add controls: [{control}]"
