"""The names of tables and of their formats; importing nothing else keeps ``--help`` quick."""

from enum import StrEnum, auto

from semigrid.data.errors import InputError

# what a table shows of the results
View = StrEnum(
    "View", "cells models labels pool classes confusions comparisons costs savings claims"
)


class Format(StrEnum):
    """How a table is printed."""

    terminal = auto()
    markdown = auto()
    csv = auto()
    json = auto()
    latex = auto()
    parquet = auto()


_ENDINGS = dict(zip(("txt", "md", "csv", "json", "tex", "parquet"), Format, strict=True))


def format_of(asked: Format | None, output: str | None) -> Format:
    """The format asked for, or the one that the ending of the output's name stands for.

    Raises ``InputError`` for an unknown ending.
    """
    if asked is not None or output is None:
        return asked or Format.terminal
    _, _, ending = output.rpartition(".")
    if ending not in _ENDINGS:
        known = ", ".join(f".{each}" for each in _ENDINGS)
        raise InputError(
            f"--output {output!r}: its ending stands for no format; use one of {known}, or give "
            "--format"
        )
    return _ENDINGS[ending]
