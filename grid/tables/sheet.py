"""One table in every form: for a terminal, Markdown, LaTeX, CSV, JSON, Parquet."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.markdown import plain

T = TypeVar("T")
NONE = "—"


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column as people read it.

    Scores and sentences ``may_break`` into lines, names not. What ``is_marked`` is set in bold. A
    ``spare`` column is left out where a terminal is too narrow, the last one first.
    """

    header: str
    shown: Callable[[T], str]
    is_name: bool = False
    may_break: bool = False
    is_spare: bool = False
    is_marked: Callable[[T], bool] | None = None


@dataclass(frozen=True)
class Sheet(Generic[T]):
    """A table: ``columns`` over ``rows`` for people, ``frame`` for programs.

    ``kept`` columns stand first in each part when a terminal has to show a table in parts.
    ``problems`` are notes on what is missing and should not be. ``records`` is what JSON has, None
    for the frame's rows.
    """

    title: str
    columns: Sequence[Column[T]]
    rows: Sequence[T]
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    records: list[dict[str, Any]] | None = None
    kept: int | None = None
    is_dim: Callable[[T], bool] = field(default=lambda row: False)

    @property
    def all_notes(self) -> list[str]:
        return [*self.notes, *self.problems]

    def shown(self) -> list[list[str]]:
        return [[column.shown(row) for column in self.columns] for row in self.rows]


def render(sheet: Sheet[Any], format: Format, width: int = 140) -> bytes:
    """The table and, where people read it, its notes; without a newline at the end."""
    if format is Format.parquet:
        buffer = io.BytesIO()
        sheet.frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if format is Format.terminal:
        console = Console(width=width, file=io.StringIO(), highlight=False)
        show(sheet, console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip("\n").encode()
    texts = {
        Format.markdown: markdown,
        Format.csv: csv,
        Format.json: as_json,
        Format.latex: latex,
    }
    return texts[format](sheet).encode()


def show(sheet: Sheet[Any], console: Console) -> None:
    """Prints the table and its notes."""
    for part in rich_tables(sheet, console):
        console.print(part)
    for note in sheet.all_notes:
        console.print(note, soft_wrap=True, markup=False)


def rich_tables(sheet: Sheet[Any], console: Console) -> list[Table]:
    """What a terminal shows: one table, or as many as it takes to hold all columns."""
    boundless = console.options.update(max_width=10**6)

    def fits(columns: Sequence[Column[Any]]) -> bool:
        wide = _rich_table(sheet, columns)
        return Measurement.get(console, boundless, wide).maximum <= console.width

    columns = list(sheet.columns)
    for spare in [column for column in reversed(columns) if column.is_spare]:
        if not fits(columns):
            columns.remove(spare)
    if sheet.kept is None:
        return [_rich_table(sheet, columns)]
    first, rest = columns[: sheet.kept], columns[sheet.kept :]
    tables: list[Table] = []
    held: list[Column[Any]] = []
    for column in rest:
        if held and not fits([*first, *held, column]):
            tables.append(_rich_table(sheet, [*first, *held]))
            held = []
        held.append(column)
    return [*tables, _rich_table(sheet, [*first, *held])]


def _rich_table(sheet: Sheet[Any], columns: Sequence[Column[Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(
            Text(column.header),
            justify="left" if column.is_name else "right",
            no_wrap=not column.may_break,
            overflow="fold",
        )
    for row in sheet.rows:
        shown = [
            Text(column.shown(row), style="bold" if _is_marked(column, row) else "")
            for column in columns
        ]
        table.add_row(*shown, style="dim" if sheet.is_dim(row) else "")
    return table


def _is_marked(column: Column[T], row: T) -> bool:
    return column.is_marked is not None and column.is_marked(row)


def markdown(sheet: Sheet[Any]) -> str:
    """The table in GitHub's Markdown."""
    headers = [plain(" ".join(column.header.split())) for column in sheet.columns]
    lines = ["| " + " | ".join(headers) + " |"]
    rules = ("---" if column.is_name else "---:" for column in sheet.columns)
    lines.append("|" + "|".join(rules) + "|")
    for row in sheet.rows:
        shown = [
            f"**{text}**" if _is_marked(column, row) else text
            for column in sheet.columns
            for text in [plain(column.shown(row))]
        ]
        lines.append("| " + " | ".join(shown) + " |")
    lines += [line for note in sheet.all_notes for line in ("", plain(note))]
    return "\n".join(lines)


def csv(sheet: Sheet[Any]) -> str:
    buffer = io.StringIO()
    sheet.frame.to_csv(buffer, index=False)
    return buffer.getvalue().rstrip("\n")


def frame_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Its rows as JSON has them: what is missing is null."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return found


def as_json(sheet: Sheet[Any]) -> str:
    records = frame_records(sheet.frame) if sheet.records is None else sheet.records
    return json.dumps(records, indent=1)


def latex(sheet: Sheet[Any]) -> str:
    """A tabular with the rules of the package booktabs, its notes as comments below it."""
    shown = [
        [
            rf"\textbf{{{text}}}" if _is_marked(column, row) else text
            for column in sheet.columns
            for text in [latex_text(" ".join(column.shown(row).split()))]
        ]
        for row in sheet.rows
    ]
    headers = [latex_text(" ".join(column.header.split())) for column in sheet.columns]

    def header(number: Any) -> str:
        return str(headers[number])

    # the same header twice is no mistake in a table, but one in a frame: columns are numbers here
    styler = pd.DataFrame(shown, columns=range(len(headers))).style.hide(axis="index")
    styler = styler.format_index(header, axis=1)
    layout = "".join(_LAYOUT[column.is_name, column.may_break] for column in sheet.columns)
    lines = [r"% needs \usepackage{booktabs}", styler.to_latex(hrules=True, column_format=layout)]
    return "\n".join([*lines, *("% " + " ".join(note.split()) for note in sheet.all_notes)])


# of a column, by whether it is a name and may break
_LAYOUT = {
    (True, False): "l",
    (True, True): r"p{0.35\linewidth}",
    (False, False): "r",
    (False, True): "r",
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "≥": r"$\geq$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{char: "\\" + char for char in "&%$#_{}"},
}


def latex_text(text: str) -> str:
    """Text that stays text."""
    return "".join(_LATEX.get(char, char) for char in text)
