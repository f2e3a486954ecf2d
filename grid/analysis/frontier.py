"""Which models are worth their device time: those that no cheaper one with as many labels matches.

What a cell took is all of its trainings, of search and seeds, stopped and failed ones included, and
those of the cells that it starts from: what it takes to come to this model from the file alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from semigrid.grid.analysis.comparisons import comparer
from semigrid.grid.analysis.families import learnt_cells, name_among_all, name_of
from semigrid.grid.analysis.numbers import show_margin
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.analysis.statistics import Comparison
from semigrid.grid.experiment.bill import bill, show_bill
from semigrid.grid.study.plan import Plan


@dataclass(frozen=True)
class Costs:
    """How what cells took is compared: by price or, where a device has none, by device-seconds.

    Hours of different devices count alike then.
    """

    results: ResultSet

    @cached_property
    def unpriced(self) -> list[str]:
        """The devices of cells with predictions that have no price."""
        rows = [row for row in self.results.rows if row.has_predictions]
        kinds = [kind for row in rows for kind in bill(row.with_parents, self._prices).unpriced]
        return list(dict.fromkeys(kinds))

    @property
    def are_prices(self) -> bool:
        """Whether every device of a cell with predictions has a price."""
        rows = self.results.rows
        return any(r.has_predictions and r.with_parents for r in rows) and not self.unpriced

    @property
    def why_time(self) -> str:
        """``no price for cpu``, where the file has prices and not all that it takes; or nothing."""
        return f"no price for {', '.join(self.unpriced)}" if self._prices and self.unpriced else ""

    @property
    def _prices(self) -> Mapping[str, float]:
        return self.results.plan.experiment.file.prices

    def of(self, row: CellResult) -> float:
        """What a cell took with the cells that it starts from."""
        if self.are_prices:
            return bill(row.with_parents, self._prices).price
        return sum(row.with_parents.values())

    def show(self, row: CellResult) -> str:
        """What it took, with prices where they decide."""
        return show_bill(row.with_parents, self._prices if self.are_prices else {})


@dataclass(frozen=True)
class Step:
    """A cell of a frontier, and its difference from the cheaper one before it, if there is one."""

    row: CellResult
    gain: Comparison | None


@dataclass(frozen=True)
class Frontier:
    """A dataset's cells with as many labels that no cheaper one of these matches, by cost.

    Each other one of the ``models`` that have learnt took no less than one of these, and scores at
    most the margin more. The differences hold together for all pairs of these models.
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
    compared = comparer({row.cell: row.balanced for row in rows})
    steps: list[Step] = []
    for row in sorted(rows, key=lambda row: (costs.of(row), -row.balanced.mean())):
        if not steps:
            steps.append(Step(row, None))
        elif row.balanced.mean() > round(steps[-1].row.balanced.mean() + margin, 12):
            steps.append(Step(row, compared(row.cell, steps[-1].row.cell)))
    text = _text(costs, steps, len(rows), margin)
    return Frontier(rows[0].cell.dataset, rows[0].cell.labels, steps, len(rows), text)


def _text(costs: Costs, steps: Sequence[Step], models: int, margin: float) -> str:
    plan, rows = costs.results.plan, [step.row for step in steps]
    parts = [
        f"{name_with_pool(plan, row)} ({row.balanced.mean():.1%} after {costs.show(row)})"
        for row in rows
    ]
    start, aside = f"With {rows[0].labeled_images:,} labels, the cheapest", show_margin(margin)
    by_time = f" by device time ({costs.why_time})" if costs.why_time else ""
    if len(steps) == 1:
        return f"{start} of {models} cells{by_time} is {parts[0]}; no other is over {aside} better."
    text = f"{start} of {models} cells first{by_time and ',' + by_time}: {'; '.join(parts)}."
    sure = [each.row for each in steps if each.gain is not None and each.gain.interval.low > 0]
    if not sure:
        text += " It is not certain that any is better than the one before it."
    elif len(sure) < len(steps) - 1:
        names = ", ".join(name_with_pool(plan, row) for row in sure)
        text += f" Certainly better than the one before it: {names}."
    else:
        text += " Each is certainly better than the one before it."
    return text


def name_with_pool(plan: Plan, row: CellResult) -> str:
    """``semi-vit with 300 unlabelled images``, ``semi-vit's control (vit trained for longer)``."""
    name = name_among_all(plan, row.cell)
    if row.cell.control == "compute":
        return f"{name} ({name_of(plan, row.cell)})"
    if row.cell.control is None and row.cell.unlabeled is not None:
        return f"{name} with {row.pool_images:,} unlabelled images"
    return name
