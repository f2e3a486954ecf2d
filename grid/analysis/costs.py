"""What each cell took in device-hours and money, and what a point of accuracy cost."""

from dataclasses import dataclass
from functools import reduce

from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.status.cost import bill
from semigrid.trainers.execution.progress import DeviceSeconds, add


@dataclass(frozen=True)
class CellCost:
    """What a cell took, alone and with the cells it starts from, and what that gained.

    Prices are None where a device has none. ``over_parent`` is in points of Acc@1, None without a
    parent or a score.
    """

    row: CellResult
    own: DeviceSeconds
    with_parents: DeviceSeconds
    price: float | None
    price_with_parents: float | None
    over_parent: float | None

    @property
    def hours(self) -> float:
        return sum(self.own.values()) / 3600

    def per_point(self, amount: float | None) -> float | None:
        """A price or hours for each point gained; None where nothing was gained."""
        if amount is None or self.over_parent is None or self.over_parent <= 0:
            return None
        return amount / self.over_parent


def cell_costs(results: ResultSet) -> list[CellCost]:
    """The cost of every row, in the rows' order."""
    prices = results.plan.experiment.file.prices
    searches = {search.name: search for search in results.plan.searches}
    acc1 = {row.cell: row.mean("acc1") for row in results.rows}
    spent: dict[str, DeviceSeconds] = {}
    for name, state in results.study.searches.items():
        trained = (results.records[spec.id] for spec in state.specs if spec.id in results.records)
        spent[name] = reduce(add, (record.device_seconds for record in trained), {})

    def price(seconds: DeviceSeconds) -> float | None:
        own_bill = bill(seconds, prices)
        return own_bill.price if seconds and not own_bill.unpriced else None

    costs = []
    for row in results.rows:
        own = total = spent[row.cell.name]
        parent = searches[row.cell.name].parent
        before = None if parent is None else acc1.get(parent.cell)
        while parent is not None:
            total = add(total, spent[parent.name])
            parent = parent.parent
        after = acc1[row.cell]
        gain = None if before is None or after is None else after - before
        costs.append(CellCost(row, own, total, price(own), price(total), gain))
    return costs
