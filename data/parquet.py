"""Parquet files of others: opened, and their columns read as text."""

from datetime import time
from decimal import Decimal
from io import SEEK_SET, BufferedIOBase, BufferedReader
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from semigrid.data.errors import InputError, RefusedError, StorageGoneError

# A file of some hundred bytes can claim any number of rows.
MAX_ROWS = 2**25


class Watched(BufferedIOBase):
    """A file that keeps the error of its storage: Arrow calls damage an ``OSError``, too."""

    def __init__(self, file: BufferedReader):
        self._file = file
        self.failure: OSError | None = None

    def read(self, size: int | None = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.failure = error
            raise

    def seek(self, position: int, whence: int = SEEK_SET) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def open_parquet(uri: str, opened: Any, **options: Any) -> pq.ParquetFile:
    """Opens a Parquet file with ``MAX_ROWS`` rows at most. Raises ``InputError``."""
    watched = None if isinstance(opened, pa.NativeFile) else Watched(opened)
    try:
        file = pq.ParquetFile(opened if watched is None else watched, **options)
        _ = file.schema_arrow.names  # is read here, and may be damaged
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    except (StorageGoneError, RefusedError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if watched is not None and watched.failure is not None:
            raise InputError(f"{uri}: cannot be read: {error}") from error
        raise InputError(f"{uri}: not a Parquet file: {error}") from error
    if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
        raise InputError(f"{uri}: a damaged Parquet file: its row groups have {sum(groups):,} rows")
    if file.metadata.num_rows > MAX_ROWS:
        raise InputError(
            f"{uri}: {file.metadata.num_rows:,} rows; {MAX_ROWS:,} at most: split the table"
        )
    return file


def column_texts(uri: str, file: pq.ParquetFile, name: str) -> list[str]:
    """A column of a Parquet file as text, see ``texts_of``. Raises ``InputError``."""
    where = f"{uri}: the column {name!r}"
    try:
        column = file.read(columns=[name])[name]
    except StorageGoneError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{where} cannot be read: {error}") from error
    if len(column) != file.metadata.num_rows:
        rows = file.metadata.num_rows
        raise InputError(f"{where} is damaged: it has {len(column):,} values in {rows:,} rows")
    return texts_of(where, column)


def texts_of(where: str, column: Any) -> list[str]:
    """The values of an Arrow column as a person writes them, empty where one is missing.

    Whole numbers have no fraction, whatever their type, since a gap turns integers into floats
    in many programs. Raises ``InputError``.
    """
    try:
        if pa.types.is_null(column.type):
            return [""] * len(column)
        if isinstance(column.type, pa.BaseExtensionType):
            uuid = column.type.extension_name == "arrow.uuid"
            column = (
                pa.chunked_array([list(map(_text, column.to_pylist()))])
                if uuid
                else (column.cast(column.type.storage_type))
            )
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        column.validate(full=True)  # Parquet's reader believes the indices of dictionaries
        # each distinct value is written once
        column = column.unify_dictionaries().combine_chunks()
        values = _texts(where, column.dictionary)
        places = column.indices.fill_null(len(values)).to_pylist()
    except pa.ArrowNotImplementedError as error:
        nested = pa.types.is_nested(column.type)
        advice = "; images inside Parquet are read with --kind parquet" if nested else ""
        kind = str(column.type)[:60]
        raise InputError(f"{where} is {kind}, not text, numbers or dates{advice}") from error
    except InputError:
        raise
    except (pa.ArrowException, ValueError, OverflowError, KeyError) as error:
        raise InputError(f"{where} has a value that cannot be read: {error}") from error
    if odd := [value for value in values if "\0" in value]:
        raise InputError(f"{where} has a zero byte in {odd[0]!r}")
    values.append("")
    return [values[place] for place in places]


def _texts(where: str, values: Any) -> list[str]:
    kind = values.type
    if pa.types.is_floating(kind):
        return _whole_if_possible(where, values.to_numpy(zero_copy_only=False))
    if pa.types.is_fixed_size_binary(kind):
        values = values.cast(pa.binary())
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(kind):
        values = values.cast(pa.string())
    found = values.to_pylist()
    if pa.types.is_timestamp(kind) and all(map(_is_day, found)):
        found = [moment and moment.date() for moment in found]
    return [_text(value) for value in found]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _is_day(moment: Any) -> bool:
    if moment is None:
        return True
    return bool(moment.time() == time()) and not getattr(moment, "nanosecond", 0)


def _whole_if_possible(where: str, values: np.ndarray) -> list[str]:
    """Numbers as text, 3.0 as 3 and NaN empty.

    Raises ``InputError`` for whole numbers so large that different ones become the same.
    """
    exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
    finite = values[np.isfinite(values)]
    if (finite == np.floor(finite)).all() and (np.abs(finite) >= exact).any():
        raise InputError(
            f"{where} has whole numbers from {exact:,.0f} on as {values.dtype}, which keeps them "
            "apart no longer; store them as integers or text"
        )
    return [
        ""
        if np.isnan(value)
        else str(int(value))
        if abs(value) < exact and value == int(value)
        else str(value)
        for value in values
    ]
