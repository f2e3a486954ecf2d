"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Source = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="Experiment file, or folder or URI of a run.")
]
CellName = Annotated[
    str, typer.Argument(metavar="CELL", help="Finished cell, such as 'aprons/semi-vit/50%/100%'.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Folder or URI of results; overrides the file's storage."),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Seeds for each winner; overrides the file's seeds."),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Cells to include, such as 'aprons/semi-vit/*'. Can be given several times.",
    ),
]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to this file or URI instead."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
