"""``semigrid table``: the results in every view and format."""

import sys
from typing import Annotated

from semigrid.data.errors import InputError
from semigrid.grid.commands.console import print_text, say, table_console, write_file
from semigrid.grid.commands.context import load, open_results
from semigrid.grid.commands.options import (
    JsonOption,
    OnlyOption,
    OutputOption,
    SeedsOption,
    Source,
    StorageOption,
    option,
)
from semigrid.grid.tables.formats import Format, View, format_of


def table(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    by: Annotated[str | None, option("SLICE", help="Show Acc@1 for each value of a slice.")] = None,
    view: Annotated[
        View,
        option(
            "VIEW",
            help="cells: all results; models: what each scores and took, by labels; labels, pool: "
            "the paper's tables 2 and 3; classes, confusions: the best cells; comparisons: all "
            "pairs of cells; costs; savings: labels saved; claims: the pool's worth, the paper's "
            "claims.",
        ),
    ] = View.cells,
    format: Annotated[
        Format | None,
        option(
            "FORMAT",
            help="terminal, markdown, csv, json, latex or parquet; default: by the ending of "
            "--output.",
        ),
    ] = None,
    output: OutputOption = None,
    paper: Annotated[
        list[str] | None,
        option(
            "TASK",
            help="Show the paper's Acc@1 for a task beside yours: TASK or DATASET=TASK, with "
            "vest-neck-style, phone-case-pattern or apron-food-bib-pattern.",
        ),
    ] = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results table, from the ledger and the predictions alone."""
    from semigrid.grid.tables.render import render, show
    from semigrid.grid.tables.slices import slices_table
    from semigrid.grid.tables.views import TABLES

    if by is not None and view is not View.cells:
        raise InputError(f"--by and --view {view}: give one of them; --by is a view of its own")
    chosen = format_of(Format.json if as_json else format, output)
    results = open_results(load(source, storage, seeds), only, paper or [])
    shown = TABLES[view](results) if by is None else slices_table(results, by)
    if chosen is Format.terminal and output is None:
        show(shown, table_console())
        return
    content = render(shown, chosen)
    if output is not None:
        write_file(output, content)
    elif chosen is Format.parquet and sys.stdout.isatty():
        raise InputError("--format parquet: not text; give --output FILE")
    elif chosen is Format.parquet:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        print_text(content.decode(), chosen is Format.csv)
    if chosen in (Format.csv, Format.json, Format.parquet):  # no room for notes
        for problem in shown.problems:
            say(problem)
