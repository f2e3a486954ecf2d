"""What all commands share: where they print, the options that several have, their exit codes."""

import os
from typing import Annotated

import typer
from rich.console import Console

from semigrid.data.storage import open_storage

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Source = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="An experiment file, or a run's folder or URI.")
]
StorageOption = Annotated[
    str | None, typer.Option(help="Keep results here instead of the file's storage.")
]
SeedsOption = Annotated[
    int | None, typer.Option(min=1, help="Run winners on this many seeds instead of the file's.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="DDP workers per training instead of the file's.")
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Only cells of these names, such as 'aprons/semi-vit/*'; may be given several times.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def say(text: str) -> None:
    err.print(text, soft_wrap=True, markup=False)


def wide() -> Console:
    """For tables: a pipe has no width, so they are shown whole there."""
    return out if out.is_terminal else Console(highlight=False, width=140)


def write_file(where: str, content: bytes) -> None:
    """A file by path or URI; its folder is made."""
    folder, _, name = where.replace(os.sep, "/").rpartition("/")
    storage = open_storage(folder or ("/" if where.startswith("/") else "."))
    storage.write(name, content)
    say(f"written: {storage.location(name)}")
