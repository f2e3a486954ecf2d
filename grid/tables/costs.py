"""The table of what each cell took and what it gained."""

from semigrid.grid.analysis.costs import CellCost, cell_costs
from semigrid.grid.analysis.numbers import show_points, show_scores
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.status.cost import show_bill, show_hours, show_price
from semigrid.grid.tables.table import Column, Table, frame_of


def costs_table(results: ResultSet) -> Table[CellCost]:
    """Device-hours and price of each cell's search and seeds, and of a point that they gained."""
    costs = cell_costs(results)
    has_prices = bool(results.plan.experiment.file.prices)

    def priced(header: str) -> str | None:
        return header if has_prices else None

    columns: list[Column[CellCost]] = [
        Column("dataset", lambda cost: cost.row.cell.dataset),
        Column("cell", lambda cost: cost.row.cell.name, "cell", is_name=True),
        Column("state", lambda cost: cost.row.state),
        Column("devices", lambda cost: ", ".join(sorted(cost.own))),
        Column("device_hours", lambda cost: cost.hours),
        Column("device_hours_with_parents", lambda cost: sum(cost.with_parents.values()) / 3600),
        Column(None, lambda cost: show_bill(cost.own, {}), "took", may_break=True),
        Column(None, lambda cost: show_bill(cost.with_parents, {}), "with parents", may_break=True),
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
            lambda cost: cost.per_point(cost.hours),
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
        "all trials and seeds of a cell, stopped and failed ones included; a point is one of Acc@1 "
        "over the cell that it starts from"
    ]
    if not has_prices:
        notes.append("for prices give prices: {DEVICE: PRICE OF AN HOUR} in the experiment file")
    return Table("Costs", columns, costs, frame_of(columns, costs), notes)
