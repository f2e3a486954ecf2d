"""Tables of text: CSV and Parquet, read alike and without guesses."""

import codecs
import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from semigrid.data.errors import InputError
from semigrid.data.parquet import column_texts, open_parquet
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import suffix_of

SUFFIXES = (".csv", ".tsv", ".parquet")
MAX_BYTES = 2**30  # of a file
# Bytes of a Parquet table in memory, in all or else for each value, or for each byte of the file,
# which may have columns of many numbers: pages unpack to any size.
MAX_UNPACKED, MAX_VALUE, MAX_RATIO = 2**26, 2**12, 4
SHOWN_NAMES = 12
SEPARATORS = b",;\t"
# the first line by which Excel tells the separator of a table
TOLD_SEPARATOR = re.compile(rb'"?sep=([!#-~\t ])"?(\r\n|\r|\n)', re.IGNORECASE)
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_file(uri: str) -> bytes:
    """A file that the user named, of ``MAX_BYTES`` at most. Raises ``InputError``."""
    try:
        return open_storage(uri).read(limit=MAX_BYTES)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{uri}: cannot be read: {why}") from error


def utf8(uri: str, content: bytes) -> bytes:
    """The content of a text file as UTF-8 without a byte order mark; UTF-16 is told by its own.

    No other encoding is guessed, since a wrong guess would spell labels wrongly. Raises
    ``InputError`` for content that is not UTF-8 or has zero bytes.
    """
    if content.startswith(UTF16):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise InputError(f"{uri}: begins like UTF-16 but is not: {error}") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    if (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise InputError(
            f"{uri}: not a text file: line {line} has a zero byte; give CSV or Parquet, unpacked"
        )
    if not content.isascii():
        for number, text in enumerate(io.BytesIO(content), 1):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{uri}: line {number} is not UTF-8: {text[:60]!r}; save the file as UTF-8"
                ) from error
    return content


@dataclass(frozen=True)
class Table:
    """A table whose columns are read when they are asked for.

    ``names`` are the columns' names as they stand in the file; they may repeat themselves.
    """

    uri: str
    names: Sequence[str]
    _read: Callable[[list[int]], list[list[str]]]
    hint: str = ""  # what may be wrong where a column is missing

    def columns(self, *needed: str) -> dict[str, list[str]]:
        """Columns by name, as text, which is empty where a value is missing.

        Raises ``InputError``: a column is missing or ambiguous, there is no row, or a row or value
        cannot be read as text.
        """
        wanted = list(dict.fromkeys(needed))
        check_columns(self.uri, self.names, wanted, self.hint)
        columns = dict(zip(wanted, self._read([*map(self.names.index, wanted)]), strict=True))
        if not any(columns.values()):
            raise InputError(f"{self.uri}: the table has no row below its header")
        return columns


def check_columns(uri: str, columns: Iterable[str], needed: Iterable[str], hint: str = "") -> None:
    """Raises ``InputError`` when a needed column is missing, or there are two of its name."""
    columns, needed = list(columns), list(needed)
    if missing := [name for name in needed if name not in columns]:
        raise InputError(
            f"{uri}: there is no column {missing[0]!r}; there are {_shown(columns)}; needed are "
            f"{', '.join(needed)}{hint}"
        )
    if repeated := [name for name in needed if columns.count(name) > 1]:
        raise InputError(
            f"{uri}: {columns.count(repeated[0])} columns are named {repeated[0]!r}; rename the "
            "others"
        )


def _shown(names: Sequence[str]) -> str:
    # quotes show blanks and control characters that are in the way
    shown = [
        name if name.isprintable() and name == name.strip() != "" else repr(name)
        for name in names[:SHOWN_NAMES]
    ]
    return ", ".join(shown) + (
        f" and {len(names) - len(shown)} more" if names[len(shown) :] else ""
    )


def open_table(uri: str, content: bytes | None = None) -> Table:
    """Opens a table by what it holds: Parquet, or CSV with commas, semicolons or tabs.

    CSV is UTF-8, or UTF-16 with a byte order mark; fields are quoted as in RFC 4180. ``content`` is
    the file's, if it has been read already. Raises ``InputError``.
    """
    content = read_file(uri) if content is None else content
    return _parquet(uri, content) if content[:4] == b"PAR1" else _csv(uri, utf8(uri, content))


def _csv(uri: str, content: bytes) -> Table:
    told = TOLD_SEPARATOR.match(content)
    start = 0 if told is None else told.end()
    head = content[start : start + 2**16].lstrip(b"\r\n")
    first = re.split(rb"[\r\n]", re.sub(rb'"[^"]*"', b"", head))[0]
    separator = chr(max(SEPARATORS, key=first.count))
    if told is not None:
        separator = told[1].decode()
    elif suffix_of(uri) == ".tsv":
        separator = "\t"

    def rows() -> Any:
        # lines end as they like, and a cell may be as long as the file
        csv.field_size_limit(sys.maxsize)
        table = io.BytesIO(content)
        table.seek(start)
        text = io.TextIOWrapper(table, encoding="utf-8", newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        number = 0  # of the row below the header
        try:
            for row in reader:
                if any(map(str.strip, row)):  # spreadsheets leave empty rows at the end
                    yield row
                    number += 1
        except csv.Error as error:
            line = reader.line_num + (told is not None)
            raise InputError(
                f"{uri}: {_place(number)} (line {line}) is not CSV: {error}; values with quotes "
                'are written "like ""this"""'
            ) from error

    header = next(rows(), None)
    if header is None:
        raise InputError(f"{uri}: the file is empty")

    def read(wanted: list[int]) -> list[list[str]]:
        columns: list[list[str]] = [[] for _ in wanted]
        pairs = list(zip(columns, wanted, strict=True))
        for number, row in enumerate(rows()):
            if any(map(str.strip, row[len(header) :])):
                raise InputError(
                    f"{uri}: {_place(number)} has {len(row)} columns, the header has "
                    f"{len(header)} ({_shown(header)}); values with {_named(separator)} must stand "
                    "in quotes"
                )
            if number:
                # spreadsheets end rows before cells that are empty
                for column, index in pairs:
                    column.append(row[index] if index < len(row) else "")
        return columns

    hint = ""
    if len(header) == 1:
        hint = (
            f"; values are separated by {_named(separator)} here: write commas, semicolons or "
            "tabs, and the columns' names in the first row"
        )
    return Table(uri, header, read, hint)


def _place(number: int) -> str:
    return f"row {number}" if number else "the header"


def _named(separator: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(separator, repr(separator))


def _parquet(uri: str, content: bytes) -> Table:
    file = open_parquet(uri, pa.BufferReader(content))
    schema, values = file.schema_arrow, file.metadata.num_rows * file.metadata.num_columns
    # a look at the columns' own sizes would end the process where they are damaged
    size = sum(file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups))
    if size > max(MAX_UNPACKED, values * MAX_VALUE, len(content) * MAX_RATIO):
        raise InputError(
            f"{uri}: {size:,} bytes in {values:,} values, so this is no table of names and numbers"
            "; images inside Parquet are read with --kind parquet"
        )
    # dictionaries keep a text once, however often it occurs
    plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
    file = open_parquet(uri, pa.BufferReader(content), read_dictionary=plain)
    return Table(
        uri, schema.names, lambda wanted: [column_texts(uri, file, schema.names[i]) for i in wanted]
    )
