"""Commands on what a run leaves: ``semigrid table | answer | report | export | predict``."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.grid.commands import predict as predict_cli
from semigrid.grid.commands.console import (
    JsonOption,
    OnlyOption,
    SeedsOption,
    Source,
    StorageOption,
    out,
    say,
    wide,
    write_file,
)
from semigrid.grid.commands.opening import load, open_grid, open_results
from semigrid.grid.study.layout import REPORT
from semigrid.grid.tables.formats import Format, View, format_of

if TYPE_CHECKING:
    from semigrid.grid.tables.table import Table


def table(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="SLICE", help="Show Acc@1 on each value of a slice of the datasets."),
    ] = None,
    view: Annotated[
        View,
        typer.Option(
            help="cells: all that is known; labels and pool: the paper's tables 2 and 3; classes, "
            "confusions: of the best cells; comparisons: of all pairs; costs."
        ),
    ] = View.cells,
    format: Annotated[
        Format | None, typer.Option(help="How to print it; else by the output's name.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write it here.")
    ] = None,
    paper: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Show the paper's Acc@1 of a task of its beside, or DATASET=TASK: "
            "vest-neck-style, phone-case-pattern, apron-food-bib-pattern.",
        ),
    ] = None,
    only: OnlyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results table, from the ledger and the predictions alone."""
    from semigrid.grid.tables.slices import slices_table
    from semigrid.grid.tables.views import view_table

    if by is not None and view is not View.cells:
        raise InputError(f"--by and --view {view}: give one of them; --by is a view of its own")
    if as_json:
        format = Format.json
    chosen = format_of(format, output)
    results = open_results(load(source, storage, seeds), only, paper)
    shown = view_table(results, view) if by is None else slices_table(results, by)
    print_table(shown, chosen, output)


def answer(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    margin: Annotated[
        float,
        typer.Option(min=0, max=100, help="By how many points a model may be worse and match."),
    ] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Say how many labels the unlabelled images replace, and how surely."""
    from semigrid.grid.analysis.answer import answer as find_answer
    from semigrid.grid.tables.answer import answer_facts, claims_table, savings_table
    from semigrid.grid.tables.terminal import show

    results = open_results(load(source, storage, seeds))
    the_answer = find_answer(results, margin / 100)
    if as_json:
        print(json.dumps(answer_facts(the_answer), indent=1))
        return
    console = wide()
    for text in the_answer.texts:
        console.print(text, markup=False)
    if not the_answer.headlines:
        console.print("no model of this experiment learns from unlabelled images (method: semi)")
    for shown in (savings_table(the_answer), claims_table(the_answer)):
        if shown.rows:
            console.print(f"\n{shown.title}", style="bold")
            show(shown, console)
    for problem in results.problems:
        say(problem)


def report(
    source: Source,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Here, not in the run's folder."),
    ] = None,
) -> None:
    """Write the report: one HTML file with the answer, tables, charts and provenance."""
    from semigrid.grid.report.page import report as make_report

    experiment = load(source, storage, seeds)
    results = open_results(experiment)
    where = output or open_storage(experiment.folder).location(REPORT)
    write_file(where, make_report(results).encode())
    for problem in results.problems:
        say(problem)


def print_table(table: "Table[Any]", format: Format, output: str | None) -> None:
    """To the terminal, or into a file; problems that a format has no room for go to stderr."""
    from semigrid.grid.tables.render import render
    from semigrid.grid.tables.terminal import show

    if format is Format.terminal and output is None:
        show(table, wide())
        return
    content = render(table, format)
    if output is None:
        if format is Format.parquet and sys.stdout.isatty():
            raise InputError("--format parquet: is no text; give --output FILE")
        sys.stdout.buffer.write(content if format is Format.parquet else content + b"\n")
        sys.stdout.buffer.flush()
    else:
        write_file(output, content if format is Format.parquet else content + b"\n")
    if not format.has_notes:
        for problem in table.problems:
            say(problem)


def export(
    source: Source,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A finished cell: aprons/vit/50%.")],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="The folder to make.")],
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    onnx: Annotated[bool, typer.Option(help="Write an ONNX file too (extra: onnx).")] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in DEST.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a cell's model for use elsewhere: a folder for timm, ONNX, and a model card."""
    from semigrid.grid.export import cell as exporting

    study, records, ledger, _ = open_grid(load(source, storage, seeds))
    done = exporting.export_cell(study, records, ledger.storage, cell, destination, onnx, overwrite)
    if as_json:
        print(json.dumps(asdict(done), indent=1))
        return
    for line in exporting.show(done):
        out.print(line, soft_wrap=True, markup=False)


def predict(
    source: Source,
    cell: predict_cli.CellName,
    images: predict_cli.Sources,
    output: predict_cli.OutputOption = None,
    split: predict_cli.SplitOption = None,
    accuracy: predict_cli.AccuracyOption = None,
    threshold: predict_cli.ThresholdOption = None,
    workers: predict_cli.WorkersOption = None,
    gpus_per_worker: predict_cli.GpusOption = None,
    no_probabilities: predict_cli.NoProbabilitiesOption = False,
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a finished cell's model classify images; run it again to go on where it was stopped."""
    study, records, _, _ = open_grid(load(source, storage, seeds))
    code = predict_cli.run(
        study,
        records,
        cell_name=cell,
        sources=images,
        output=output,
        splits=split,
        accuracy=accuracy,
        threshold=threshold,
        workers=workers,
        gpus=gpus_per_worker,
        with_probabilities=not no_probabilities,
        as_json=as_json,
    )
    raise typer.Exit(code)


COMMANDS = (table, answer, report, export, predict)
