"""``semigrid export``: a cell's model for use elsewhere."""

from dataclasses import asdict
from typing import Annotated

import typer

from semigrid.grid.commands.console import echo, echo_json
from semigrid.grid.commands.context import load, open_study
from semigrid.grid.commands.options import (
    CellName,
    JsonOption,
    SeedsOption,
    Source,
    StorageOption,
)


def export(
    source: Source,
    cell: CellName,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Folder to create.")],
    storage: StorageOption = None,
    seeds: SeedsOption = None,
    onnx: Annotated[
        bool, typer.Option(help="Whether to write an ONNX file too (needs the extra onnx).")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in DEST.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a cell's model as a folder for timm, an ONNX file and a model card."""
    from semigrid.grid.export.cell import export_cell, show

    study = open_study(load(source, storage, seeds))
    exported = export_cell(study.state, study.ledger.storage, cell, destination, onnx, overwrite)
    if as_json:
        echo_json(asdict(exported))
        return
    for line in show(exported):
        echo(line)
