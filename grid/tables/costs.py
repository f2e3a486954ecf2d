"""The table of what each cell took in device-hours and money, and of a point that it gained."""

from dataclasses import dataclass

from semigrid.data.plausible import DeviceSeconds
from semigrid.grid.analysis.numbers import show_points, show_scores
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.experiment.bill import bill, show_bill, show_hours, show_price
from semigrid.grid.tables.table import Column, Table


@dataclass(frozen=True)
class CellCost:
    """What a cell cost, alone and with the cells it starts or learns from, and what that gained.

    Prices are None where a device has none. ``over_parent`` is in points of Acc@1, None without a
    parent or a score.
    """

    row: CellResult
    price: float | None
    price_with_parents: float | None
    over_parent: float | None

    def per_point(self, amount: float | None) -> float | None:
        """A price or hours for each point gained; None where nothing was gained."""
        if amount is None or self.over_parent is None or self.over_parent <= 0:
            return None
        return amount / self.over_parent


def cell_costs(results: ResultSet) -> list[CellCost]:
    """The cost of every row, in the rows' order."""
    acc1 = {row.cell: row.mean("acc1") for row in results.rows}

    def price(seconds: DeviceSeconds) -> float | None:
        priced = bill(seconds, results.plan.experiment.file.prices)
        return priced.price if seconds and not priced.unpriced else None

    costs = []
    for row in results.rows:
        parent = results.study.searches[row.cell.name].search.parent
        before = None if parent is None else acc1.get(parent.cell)
        after = acc1[row.cell]
        gain = None if before is None or after is None else after - before
        costs.append(CellCost(row, price(row.device_seconds), price(row.with_parents), gain))
    return costs


def costs_table(results: ResultSet) -> Table[CellCost]:
    """Device-hours and price of each cell's search and seeds, and of a point that they gained."""
    has_prices = bool(results.plan.experiment.file.prices)

    def priced(header: str) -> str | None:
        return header if has_prices else None

    def took(seconds: DeviceSeconds) -> str:
        return show_bill(seconds, {})

    def hours(seconds: DeviceSeconds) -> float:
        return sum(seconds.values()) / 3600

    columns: list[Column[CellCost]] = [
        Column("dataset", lambda cost: cost.row.cell.dataset),
        Column("cell", lambda cost: cost.row.cell.name, "cell", is_name=True),
        Column("state", lambda cost: cost.row.state),
        Column("devices", lambda cost: ", ".join(sorted(cost.row.device_seconds))),
        Column("device_hours", lambda cost: hours(cost.row.device_seconds)),
        Column("device_hours_with_parents", lambda cost: hours(cost.row.with_parents)),
        Column(None, lambda cost: took(cost.row.device_seconds), "took", may_break=True),
        Column(None, lambda cost: took(cost.row.with_parents), "with parents", may_break=True),
        Column("price", lambda cost: cost.price, priced("price"), show_price),
        Column(
            "price_with_parents",
            lambda cost: cost.price_with_parents,
            priced("with parents"),
            show_price,
        ),
        Column("acc1", lambda cost: cost.row.mean("acc1")),
        Column(None, lambda cost: cost.row.scores("acc1"), "Acc@1", show_scores),
        Column("points_over_parent", lambda cost: cost.over_parent, "over parent", show_points),
        Column(
            "device_hours_per_point",
            lambda cost: cost.per_point(hours(cost.row.device_seconds)),
            "a point took",
            lambda hours: show_hours(3600 * hours),
        ),
        Column(
            "price_per_point",
            lambda cost: cost.per_point(cost.price),
            priced("a point cost"),
            show_price,
        ),
    ]
    notes = [
        "all trials and seeds of a cell, stopped and failed ones included; with parents: and of "
        "those that it starts or learns from; a point is one of Acc@1 over the cell that it starts "
        "from"
    ]
    if not has_prices:
        notes.append("for prices give prices: {DEVICE: PRICE OF AN HOUR} in the experiment file")
    return Table("Costs", columns, cell_costs(results), notes)
