"""Tables for a terminal, as narrow as it may be."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from semigrid.grid.tables.table import Column, Table


def show(table: Table[Any], console: Console) -> None:
    """Prints the table and its notes."""
    for part in _parts(table, console):
        console.print(part)
    for note in table.all_notes:
        console.print(note, soft_wrap=True, markup=False)


def _parts(table: Table[Any], console: Console) -> list[RichTable]:
    """One table, or as many as it takes to hold all columns."""
    boundless = console.options.update(max_width=10**6)

    def fits(columns: Sequence[Column[Any]]) -> bool:
        whole = _rich_table(table, columns)
        return Measurement.get(console, boundless, whole).maximum <= console.width

    columns = list(table.columns)
    for spare in [column for column in reversed(columns) if column.is_spare]:
        if not fits(columns):
            columns.remove(spare)
    if table.repeated is None:
        return [_rich_table(table, columns)]
    first, rest = columns[: table.repeated], columns[table.repeated :]
    parts: list[list[Column[Any]]] = [[]]
    for column in rest:
        if parts[-1] and not fits([*first, *parts[-1], column]):
            parts.append([])
        parts[-1].append(column)
    return [_rich_table(table, [*first, *part]) for part in parts]


def _rich_table(table: Table[Any], columns: Sequence[Column[Any]]) -> RichTable:
    rich_table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        rich_table.add_column(
            Text(column.header or ""),
            justify="left" if column.is_name else "right",
            no_wrap=not column.may_break,
            overflow="fold",
        )
    for row in table.rows:
        texts = [
            Text(column.text(row), style="bold" if column.is_bold(row) else "")
            for column in columns
        ]
        rich_table.add_row(*texts, style="dim" if table.is_dim(row) else "")
    return rich_table
