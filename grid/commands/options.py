"""Arguments and options that several commands share."""

from typing import Annotated

import typer
from typer.models import OptionInfo

REPEAT = "Can be repeated."


def option(
    metavar: str,
    *names: str,
    help: str,
    panel: str | None = None,
    min: float | None = None,
    max: float | None = None,
) -> OptionInfo:
    """An option with a value; ``panel`` is the heading it stands under in the help."""
    made: OptionInfo = typer.Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, min=min, max=max
    )
    return made


Source = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="Experiment file, or folder or URI of a run.")
]
CellName = Annotated[
    str, typer.Argument(metavar="CELL", help="Finished cell, such as 'aprons/semi-vit/50%/100%'.")
]
StorageOption = Annotated[str | None, option("URI", help="Overrides the file's storage.")]
SeedsOption = Annotated[int | None, option("N", min=1, help="Overrides the file's seeds.")]
OnlyOption = Annotated[
    list[str] | None,
    option("PATTERN", help=f"Cells to include, such as 'aprons/semi-vit/*'. {REPEAT}"),
]
OutputOption = Annotated[
    str | None, option("FILE", "--output", "-o", help="Write to this file or URI instead.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
