"""A table in every format."""

import io
import json
from collections.abc import Callable
from typing import Any

from rich.console import Console

from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.markdown import plain
from semigrid.grid.tables.table import Table, frame_records
from semigrid.grid.tables.terminal import show


def render(table: Table[Any], format: Format) -> bytes:
    """The table and, where people read it, its notes; without a newline at the end."""
    if format is Format.parquet:
        return bytes(table.frame.to_parquet(index=False))
    texts: dict[Format, Callable[[Table[Any]], str]] = {
        Format.terminal: to_terminal,
        Format.markdown: to_markdown,
        Format.csv: to_csv,
        Format.json: to_json,
        Format.latex: to_latex,
    }
    return texts[format](table).encode()


def to_terminal(table: Table[Any]) -> str:
    text = io.StringIO()
    show(table, Console(width=140, file=text, highlight=False))
    return text.getvalue().rstrip("\n")


def to_csv(table: Table[Any]) -> str:
    return str(table.frame.to_csv(index=False)).rstrip("\n")


def to_json(table: Table[Any]) -> str:
    records = frame_records(table.frame) if table.records is None else table.records
    return json.dumps(records, indent=1)


def to_markdown(table: Table[Any]) -> str:
    """The table in GitHub's Markdown."""
    headers, rows = _texts(table, plain, "**{}**")
    rules = ["---" if column.is_name else "---:" for column in table.columns]
    lines = ["| " + " | ".join(line) + " |" for line in (headers, rules, *rows)]
    return "\n".join([*lines, *("\n" + plain(note) for note in table.all_notes)])


def to_latex(table: Table[Any]) -> str:
    """A tabular with the rules of the package booktabs, its notes as comments below it."""
    headers, rows = _texts(table, latex_text, r"\textbf{{{}}}")
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
            *("% " + " ".join(note.split()) for note in table.all_notes),
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


_LATEX = str.maketrans(
    {
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
)


def latex_text(text: str) -> str:
    """The text on one line, escaped for LaTeX."""
    return " ".join(text.split()).translate(_LATEX)
