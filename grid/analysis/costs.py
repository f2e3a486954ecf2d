"""What each cell took in device-hours and money, and what a point of accuracy cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import Row
from semigrid.grid.status.cost import bill, show_bill, show_hours, show_price
from semigrid.grid.study.plan import Cell
from semigrid.grid.tables.cells import show_points, show_scores, typed
from semigrid.grid.tables.sheet import NONE, Column, Sheet
from semigrid.trainers.progress import DeviceSeconds, add


@dataclass(frozen=True)
class CostLine:
    """What a cell took, alone and with the searches it starts from, and what that bought."""

    row: Row
    own: DeviceSeconds
    whole: DeviceSeconds
    price: float | None
    price_whole: float | None
    over_parent: float | None  # points of Acc@1

    @property
    def hours(self) -> float:
        return sum(self.own.values()) / 3600

    def per_point(self, amount: float | None) -> float | None:
        """Of a price or of hours; None where nothing was gained."""
        if amount is None or self.over_parent is None or self.over_parent <= 0:
            return None
        return amount / self.over_parent


def cost_lines(known: Known) -> list[CostLine]:
    """Of all cells, in the table's order."""
    searches = {search.name: search for search in known.plan.searches}
    prices = known.plan.experiment.file.prices
    spent = {name: _spent(known, state.specs) for name, state in known.study.searches.items()}
    acc1: dict[Cell, float | None] = {row.cell: row.mean("acc1") for row in known.results.rows}

    def price(seconds: DeviceSeconds) -> float | None:
        found = bill(seconds, prices)
        return found.price if seconds and not found.unpriced else None

    lines = []
    for row in known.results.rows:
        own = whole = spent[row.cell.name]
        parent = searches[row.cell.name].parent
        first = None if parent is None else acc1.get(parent.cell)
        while parent is not None:
            whole = add(whole, spent[parent.name])
            parent = parent.parent
        mine = row.mean("acc1")
        gain = None if first is None or mine is None else mine - first
        lines.append(CostLine(row, own, whole, price(own), price(whole), gain))
    return lines


def _spent(known: Known, specs: Sequence[Any]) -> DeviceSeconds:
    found: DeviceSeconds = {}
    for spec in specs:
        if spec.id in known.records:
            found = add(found, known.records[spec.id].device_seconds)
    return found


def costs_sheet(known: Known) -> Sheet[CostLine]:
    """Device-hours and price of each cell's search and seeds, and of a point that they gained."""
    lines = cost_lines(known)
    prices = known.plan.experiment.file.prices
    columns: list[Column[CostLine]] = [
        Column("cell", lambda line: line.row.cell.name, is_name=True),
        Column("took", lambda line: show_bill(line.own, {}), may_break=True),
        Column("with parents", lambda line: show_bill(line.whole, {}), may_break=True),
    ]
    if prices:
        columns.append(Column("price", lambda line: _price(line.price)))
        columns.append(Column("with parents", lambda line: _price(line.price_whole)))
    columns.append(Column("Acc@1", lambda line: show_scores(line.row.scores("acc1"))))
    columns.append(
        Column(
            "over parent",
            lambda line: NONE if line.over_parent is None else show_points(line.over_parent / 100),
        )
    )
    columns.append(Column("a point took", lambda line: _hours(line.per_point(line.hours))))
    if prices:
        columns.append(Column("a point cost", lambda line: _price(line.per_point(line.price))))
    records = [
        {
            "dataset": line.row.cell.dataset,
            "cell": line.row.cell.name,
            "state": line.row.state,
            "devices": ", ".join(sorted(line.own)),
            "device_hours": line.hours,
            "device_hours_with_parents": sum(line.whole.values()) / 3600,
            "price": line.price,
            "price_with_parents": line.price_whole,
            "acc1": line.row.mean("acc1"),
            "points_over_parent": line.over_parent,
            "device_hours_per_point": line.per_point(line.hours),
            "price_per_point": line.per_point(line.price),
        }
        for line in lines
    ]
    notes = [
        "all trials and seeds of a cell, stopped and failed ones included; a point is one of Acc@1 "
        "over the cell that it starts from"
    ]
    if not prices:
        notes.append("for prices give prices: {DEVICE: PRICE OF AN HOUR} in the experiment file")
    return Sheet(
        title="Costs",
        columns=columns,
        rows=lines,
        frame=typed(pd.DataFrame.from_records(records)),
        notes=notes,
    )


def _price(price: float | None) -> str:
    return NONE if price is None else show_price(price)


def _hours(hours: float | None) -> str:
    return NONE if hours is None else show_hours(3600 * hours)
