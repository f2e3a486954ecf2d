"""Small tables of text: CSV and Parquet."""

import io
from collections.abc import Iterable

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage


def read_file(uri: str) -> bytes:
    """A file that the user named. Raises ``InputError``."""
    try:
        return open_storage(uri).read()
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error


def check_columns(uri: str, columns: Iterable[str], needed: Iterable[str]) -> None:
    """Raises ``InputError`` when a needed column is missing."""
    columns, needed = list(columns), list(needed)
    if missing := [name for name in needed if name not in columns]:
        raise InputError(
            f"{uri}: there is no column {missing[0]!r}; there are {', '.join(columns)}; needed are "
            f"{', '.join(needed)}"
        )


def read_table(uri: str, content: bytes | None = None) -> pd.DataFrame:
    """A CSV or Parquet file as strings, empty where a value is missing. Raises ``InputError``.

    ``content`` is the file's, if it has been read already.
    """
    content = read_file(uri) if content is None else content
    try:
        if content[:4] == b"PAR1":
            # a stored index may repeat itself, as that of joined tables does
            table = pd.read_parquet(io.BytesIO(content)).reset_index(drop=True)
            return table.astype(str).mask(table.isna(), "")
        # everything is a string: a label "1" and a worker "007" must stay what they are
        return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{uri}: not a CSV or Parquet file: {error}") from error
