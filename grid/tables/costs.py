"""The table of what each cell took and what it gained."""

from semigrid.grid.analysis.costs import CellCost, cell_costs
from semigrid.grid.analysis.numbers import NONE, show_points, show_scores
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.status.cost import show_bill, show_hours, show_price
from semigrid.grid.tables.table import Column, Table, frame_of


def costs_table(results: ResultSet) -> Table[CellCost]:
    """Device-hours and price of each cell's search and seeds, and of a point that they gained."""
    costs = cell_costs(results)
    columns: list[Column[CellCost]] = [
        Column("cell", lambda cost: cost.row.cell.name, is_name=True),
        Column("took", lambda cost: show_bill(cost.own, {}), may_break=True),
        Column("with parents", lambda cost: show_bill(cost.with_parents, {}), may_break=True),
        Column("price", lambda cost: _price(cost.price)),
        Column("with parents", lambda cost: _price(cost.price_with_parents)),
        Column("Acc@1", lambda cost: show_scores(cost.row.scores("acc1"))),
        Column("over parent", lambda cost: _points(cost.over_parent)),
        Column("a point took", lambda cost: _hours(cost.per_point(cost.hours))),
        Column("a point cost", lambda cost: _price(cost.per_point(cost.price))),
    ]
    notes = [
        "all trials and seeds of a cell, stopped and failed ones included; a point is one of Acc@1 "
        "over the cell that it starts from"
    ]
    if not results.plan.experiment.file.prices:
        columns = [*columns[:3], *columns[5:8]]
        notes.append("for prices give prices: {DEVICE: PRICE OF AN HOUR} in the experiment file")
    return Table(
        title="Costs",
        columns=columns,
        rows=costs,
        frame=frame_of(
            costs,
            {
                "dataset": lambda cost: cost.row.cell.dataset,
                "cell": lambda cost: cost.row.cell.name,
                "state": lambda cost: cost.row.state,
                "devices": lambda cost: ", ".join(sorted(cost.own)),
                "device_hours": lambda cost: cost.hours,
                "device_hours_with_parents": lambda cost: sum(cost.with_parents.values()) / 3600,
                "price": lambda cost: cost.price,
                "price_with_parents": lambda cost: cost.price_with_parents,
                "acc1": lambda cost: cost.row.mean("acc1"),
                "points_over_parent": lambda cost: cost.over_parent,
                "device_hours_per_point": lambda cost: cost.per_point(cost.hours),
                "price_per_point": lambda cost: cost.per_point(cost.price),
            },
        ),
        notes=notes,
    )


def _price(price: float | None) -> str:
    return NONE if price is None else show_price(price)


def _points(points: float | None) -> str:
    return NONE if points is None else show_points(points / 100)


def _hours(hours: float | None) -> str:
    return NONE if hours is None else show_hours(3600 * hours)
