"""A table in every format, in which text from data stays text."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from semigrid.data.escape import csv_cell, latex, markdown, one_line, terminal, visible
from semigrid.data.json_text import json_text
from semigrid.grid.status.terminal import Terminal
from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.table import Column, Table, frame_records


def render(table: Table[Any], format: Format) -> bytes:
    """The table and, where people read it, its notes."""
    if format is Format.parquet:
        return bytes(table.frame.to_parquet(index=False))
    match format:
        case Format.csv:
            text = _csv(table.frame)
        case Format.json:
            records = frame_records(table.frame) if table.records is None else table.records
            text = json_text(records)
        case Format.markdown:
            text = to_markdown(table)
        case Format.latex:
            text = to_latex(table)
        case Format.terminal:
            file = io.StringIO()
            show(table, Terminal(file, width=140))
            text = file.getvalue()
    return text.rstrip("\n").encode() + b"\n"


def _csv(frame: pd.DataFrame) -> str:
    cells = frame.map(csv_cell, na_action="ignore").rename(columns=csv_cell)
    return str(cells.to_csv(index=False))


def show(table: Table[Any], console: Terminal) -> None:
    """Prints the table, as narrow as the console, and its notes."""
    parts = _parts(table, console)
    for part in parts:
        console.print(_rich_table(table, part, console.encoding))
    shown = dict.fromkeys(column for part in parts for column in part)
    for note in table.notes_of(shown):
        console.print(note)


def _parts(table: Table[Any], console: Terminal) -> list[list[Column[Any]]]:
    """The columns of one table, or of as many as it takes to cut no number.

    Spare columns go first, then names and sentences get lines; what is too wide even so is shown in
    parts, each with the columns that are ``repeated``, or else the names that stand first.
    """
    columns, repeated = list(table.columns), table.repeated
    if repeated is None:
        for spare in [column for column in reversed(columns) if column.is_spare]:
            if not _fits(table, columns, console):
                columns.remove(spare)
        if _fits(table, columns, console, squeezed=True):
            return [columns]
        repeated = max(1, next(n for n, c in enumerate([*columns, None]) if not c or not c.is_name))
    squeezed = table.repeated is None
    first, rest = columns[:repeated], columns[repeated:]
    parts: list[list[Column[Any]]] = [[]]
    for column in rest:
        if parts[-1] and not _fits(table, [*first, *parts[-1], column], console, squeezed):
            parts.append([])
        parts[-1].append(column)
    return [[*first, *part] for part in parts]


def _fits(
    table: Table[Any], columns: Sequence[Column[Any]], console: Terminal, squeezed: bool = False
) -> bool:
    """Whether columns fit into the console's width; ``squeezed`` if what can break does."""
    boundless = console.options.update(max_width=10**6)
    whole = _rich_table(table, columns, console.encoding, squeezed)
    return Measurement.get(console, boundless, whole).maximum <= console.width


_NARROW = 16  # characters of a name's line, where there is no room for longer ones


def _rich_table(
    table: Table[Any], columns: Sequence[Column[Any]], encoding: str, squeezed: bool = False
) -> RichTable:
    rich_table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        texts = [column.header or "", *(_in_cell(column, row) for row in table.rows)]
        word = max(cell_len(terminal(each, encoding)) for t in texts for each in t.split() or [""])
        breaks = column.may_break or column.is_name
        rich_table.add_column(
            Text(terminal(column.header or "", encoding)),
            justify="left" if column.is_name else "right",
            no_wrap=not breaks,
            overflow="fold",
            max_width=(min(word, _NARROW) if column.is_name else word)
            if squeezed and breaks
            else None,
        )
    for row in table.rows:
        cells = [
            Text(terminal(_in_cell(column, row), encoding), "bold" if column.is_bold(row) else "")
            for column in columns
        ]
        rich_table.add_row(*cells, style="dim" if table.is_dim(row) else "")
    return rich_table


def _in_cell(column: Column[Any], row: Any) -> str:
    """The text; a name has one line, whatever is in it."""
    text = column.text(row)
    return visible(text) if column.is_name and not column.may_break else text


def to_markdown(table: Table[Any]) -> str:
    """The table in GitHub's Markdown."""
    headers, rows = _texts(table, markdown, "**{}**")
    rules = ["---" if column.is_name else "---:" for column in table.columns]
    lines = ["| " + " | ".join(line) + " |" for line in (headers, rules, *rows)]
    return "\n".join([*lines, *("\n" + markdown(note) for note in table.all_notes)])


def to_latex(table: Table[Any]) -> str:
    """A tabular with the rules of the package booktabs, its notes as comments below it."""
    headers, rows = _texts(table, latex, r"\textbf{{{}}}")
    layout = "".join(
        (r"p{0.35\linewidth}" if column.may_break else "l") if column.is_name else "r"
        for column in table.columns
    )
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            " & ".join(headers) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            *("% " + visible(one_line(note)) for note in table.all_notes),
        ]
    )


def _texts(
    table: Table[Any], escape: Callable[[str], str], bold: str
) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, escaped; ``bold`` has a place for the text."""

    def cell(text: str, is_bold: bool) -> str:
        return bold.format(escape(text)) if is_bold else escape(text)

    rows = [
        [cell(column.text(row), column.is_bold(row)) for column in table.columns]
        for row in table.rows
    ]
    return [escape(column.header or "") for column in table.columns], rows
