"""Small tables of text: CSV and Parquet."""

import io

import pandas as pd

from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage


def read_file(uri: str) -> bytes:
    """A file that the user named. Raises ``InputError``."""
    try:
        return open_storage(uri).read()
    except OSError as error:
        raise InputError(f"{uri}: cannot be read: {error}") from error


def read_table(uri: str) -> pd.DataFrame:
    """A CSV or Parquet file as strings, empty where a value is missing. Raises ``InputError``."""
    return parse_table(uri, read_file(uri))


def parse_table(uri: str, content: bytes) -> pd.DataFrame:
    """The table in a file's content; ``uri`` is for messages. Raises ``InputError``."""
    try:
        if content[:4] == b"PAR1":
            table = pd.read_parquet(io.BytesIO(content))
            return table.astype(str).mask(table.isna(), "")
        # everything is a string: a label "1" and a worker "007" must stay what they are
        return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise InputError(f"{uri}: not a CSV or Parquet file: {error}") from error
