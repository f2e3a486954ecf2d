"""Which models are worth their device time: those that no cheaper one with as many labels matches.

What a cell took is all of its trainings, of search and seeds, stopped and failed ones included, and
those of the cells that it starts from: what it takes to come to this model from the file alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from semigrid.grid.analysis.families import learnt_cells, name_of
from semigrid.grid.analysis.numbers import show_margin
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import LEVEL, Comparison, compare
from semigrid.grid.experiment.bill import bill, show_bill
from semigrid.grid.study.plan import Plan


@dataclass(frozen=True)
class Costs:
    """How what cells took is compared: by price or, where a device has none, by device-seconds.

    Hours of different devices count alike then.
    """

    results: ResultSet

    @cached_property
    def are_prices(self) -> bool:
        """Whether every device of a cell with predictions has a price."""
        rows = [row for row in self.results.rows if row.has_predictions and row.with_parents]
        prices = self.results.plan.experiment.file.prices
        return bool(rows) and not any(bill(row.with_parents, prices).unpriced for row in rows)

    def of(self, row: CellResult) -> float:
        """What a cell took with the cells that it starts from."""
        if self.are_prices:
            return bill(row.with_parents, self.results.plan.experiment.file.prices).price
        return sum(row.with_parents.values())


@dataclass(frozen=True)
class Step:
    """A cell of a frontier, and its difference from the cheaper one before it, if there is one."""

    row: CellResult
    gain: Comparison | None


@dataclass(frozen=True)
class Frontier:
    """A dataset's cells with as many labels that no cheaper one of these matches, by cost.

    Each other one of the ``models`` that have learnt took no less than one of these, and scores at
    most the margin more. The differences hold together for as many comparisons as there are models.
    """

    dataset: str
    labels: Fraction
    steps: list[Step]
    models: int
    text: str

    @property
    def rows(self) -> list[CellResult]:
        return [step.row for step in self.steps]


def frontiers(results: ResultSet, margin: float) -> Iterator[Frontier]:
    """One for each dataset and number of labels with which a cell has learnt, fewest labels first.

    Args:
        margin: how much better, as a share, a dearer cell must score to be one of them.
    """
    costs = Costs(results)
    for dataset in results.datasets:
        finished = [r for r in results.rows if r.cell.dataset == dataset and r.has_predictions]
        learnt = learnt_cells(finished)
        able = [row for row in finished if row.cell in learnt and row.with_parents]
        for fraction in sorted({row.cell.labels for row in able}):
            alike = [row for row in able if row.cell.labels == fraction]
            yield _frontier(costs, alike, margin)


def _frontier(costs: Costs, rows: Sequence[CellResult], margin: float) -> Frontier:
    """Of cells with the same labels."""
    level = 1 - (1 - LEVEL) / max(1, len(rows) - 1)
    steps: list[Step] = []
    for row in sorted(rows, key=lambda row: (costs.of(row), -row.balanced.mean())):
        if not steps:
            steps.append(Step(row, None))
        elif row.balanced.mean() > round(steps[-1].row.balanced.mean() + margin, 12):
            steps.append(Step(row, compare(row.balanced, steps[-1].row.balanced, level)))
    text = _text(costs.results, steps, len(rows), margin)
    return Frontier(rows[0].cell.dataset, rows[0].cell.labels, steps, len(rows), text)


def _text(results: ResultSet, steps: Sequence[Step], models: int, margin: float) -> str:
    plan, rows = results.plan, [step.row for step in steps]
    prices = plan.experiment.file.prices
    parts = [
        f"{name_with_pool(plan, row)} ({row.balanced.mean():.1%} after "
        f"{show_bill(row.with_parents, prices)})"
        for row in rows
    ]
    start, aside = f"With {rows[0].labeled_images:,} labels, the cheapest", show_margin(margin)
    if len(steps) == 1:
        return f"{start} of {models} models is {parts[0]}; no other is over {aside} better."
    text = f"{start} first: {'; '.join(parts)}."
    sure = [each.row for each in steps if each.gain is not None and each.gain.interval.low > 0]
    if not sure:
        text += " It is not certain that any is better than the one before it."
    elif len(sure) < len(steps) - 1:
        names = ", ".join(name_with_pool(plan, row) for row in sure)
        text += f" Certainly better than the one before it: {names}."
    else:
        text += " Each is certainly better than the one before it."
    if models > len(steps):
        text += (
            f" Any other of these {models} models took no less than one of them that is at most "
            f"{aside} below it."
        )
    return text


def name_with_pool(plan: Plan, row: CellResult) -> str:
    """``semi-vit with 300 unlabelled images``; a control has none."""
    has_pool = row.cell.unlabeled is not None and row.cell.control is None
    pool = f" with {row.pool_images:,} unlabelled images" if has_pool else ""
    return name_of(plan, row.cell) + pool
