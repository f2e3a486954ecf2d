"""The table of models by number of labels: what each scores, what it took, which are worth it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from semigrid.grid.analysis.answer import Answer
from semigrid.grid.analysis.families import name_among_all
from semigrid.grid.analysis.frontier import Costs
from semigrid.grid.analysis.numbers import show_margin, show_scores
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.experiment.bill import show_hours, show_price
from semigrid.grid.experiment.schema import show_percent
from semigrid.grid.study.plan import Cell, Plan
from semigrid.grid.tables.cells import cell_columns
from semigrid.grid.tables.table import Column, Table, frame_of


@dataclass(frozen=True)
class ModelRow:
    """A model with its smallest pool, a larger one, or a control, and its cells by labels."""

    dataset: str
    name: str
    cells: dict[Fraction, CellResult]


def models_table(
    results: ResultSet, answered: Answer, dataset: str | None = None
) -> Table[ModelRow]:
    """Acc@1 and what it took, by model and labels, with the cells of the frontiers marked.

    Args:
        dataset: the only one that is shown, None for all.
    """
    rows = [row for row in results.rows if dataset in (None, row.cell.dataset)]
    several = len({row.cell.dataset for row in rows}) > 1
    marked = {row.cell for each in answered.frontiers for row in each.rows}
    costs = Costs(results)

    def column(fraction: Fraction) -> Column[ModelRow]:
        def text(row: ModelRow) -> str | None:
            cell = row.cells.get(fraction)
            if cell is None:
                return None  # not in the grid
            if not cell.has_predictions:
                return "no predictions" if cell.state == "finished" else cell.state
            mark = "*" if cell.cell in marked else ""
            took = show_price(costs.of(cell)) if costs.are_prices else show_hours(costs.of(cell))
            return f"{mark}{show_scores(cell.scores('acc1'), 1)}\n({took})"

        def is_marked(row: ModelRow) -> bool:
            return fraction in row.cells and row.cells[fraction].cell in marked

        labels = {row.labeled_images for row in rows if row.cell.labels == fraction}
        header = show_percent(fraction) if several else f"{labels.pop():,} labels"
        return Column(None, text, header, may_break=True, is_bold=is_marked)

    columns: list[Column[ModelRow]] = [
        Column(None, lambda row: row.dataset, "dataset" if several else None, is_name=True),
        Column(None, lambda row: row.name, "model", is_name=True),
        # a narrow terminal or phone shows the first ones at once
        *map(column, sorted({row.cell.labels for row in rows}, reverse=True)),
    ]
    took = "price" if costs.are_prices else "device time"
    why = f" ({costs.why_time})" if costs.why_time else ""
    notes = [
        f"Acc@1 and, below it, the {took}{why} of all trials and seeds of a cell and of those that "
        "it starts or learns from"
    ]
    if marked:
        notes.append(
            "*: no cheaper one with as many labels scores as much, "
            f"{show_margin(answered.margin)} aside"
        )
    return Table(
        "Models by labels",
        columns,
        _model_rows(results.plan, rows),
        notes,
        data=frame_of(_for_programs(costs, marked, rows), rows),
        repeated=2 if several else 1,
    )


def _model_rows(plan: Plan, rows: Sequence[CellResult]) -> list[ModelRow]:
    """By dataset in the file's order, below each model its controls and its larger pools."""
    smallest: dict[tuple[str, str, Fraction], Fraction] = {}
    for row in rows:
        cell = row.cell
        if cell.unlabeled is not None:
            key = cell.dataset, cell.model, cell.labels
            smallest[key] = min(cell.unlabeled, smallest.get(key, cell.unlabeled))

    def name(cell: Cell) -> str:
        own, least = (
            name_among_all(plan, cell),
            smallest.get((cell.dataset, cell.model, cell.labels)),
        )
        if cell.control is not None or cell.unlabeled in (None, least):
            return own
        return f"{own}, pool {show_percent(cell.unlabeled)}"

    found: dict[tuple[str, str], dict[str, ModelRow]] = {}
    for row in rows:
        of_model = found.setdefault((row.cell.dataset, row.cell.model), {})
        named = of_model.setdefault(name(row.cell), ModelRow(row.cell.dataset, name(row.cell), {}))
        named.cells[row.cell.labels] = row
    made = [row for of_model in found.values() for row in of_model.values()]
    datasets = list(dict.fromkeys(row.cell.dataset for row in rows))
    return sorted(made, key=lambda row: datasets.index(row.dataset))


def _for_programs(
    costs: Costs, marked: set[Cell], rows: Sequence[CellResult]
) -> list[Column[CellResult]]:
    return [
        *cell_columns(rows),
        Column("acc1", lambda row: row.mean("acc1")),
        Column("acc1_low", lambda row: row.interval and 100 * row.interval.low),
        Column("acc1_high", lambda row: row.interval and 100 * row.interval.high),
        Column("device_hours_with_parents", lambda row: sum(row.with_parents.values()) / 3600),
        Column("price_with_parents", lambda row: costs.of(row) if costs.are_prices else None),
        Column("on_frontier", lambda row: row.cell in marked),
    ]
