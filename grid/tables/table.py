"""A table before it has a format: columns over rows, each declared once for people and programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd

from semigrid.grid.analysis.numbers import NONE

T = TypeVar("T")

_WHOLE = ("pool_images", "test_images", "train_images")  # columns of whole numbers, or missing
# types of columns in which everything may be missing; all others are numbers
_TYPES = dict.fromkeys(("unlabeled", "standing", "baseline", "value"), pd.Series([""]).dtype)
_TYPES["extrapolated"] = np.dtype(object)


@dataclass(frozen=True)
class Column(Generic[T]):
    """A value of each row: under ``name`` for programs, under ``header`` for people.

    Without a name or a header it is left out there. ``show`` makes the text of a value that is not
    missing. A column with ``is_name`` is aligned to the left, any other to the right. Scores and
    sentences ``may_break`` into lines, names where nothing else helps, and numbers never. A
    ``spare`` column is left out where a terminal is too narrow, the last one first, and its
    ``note`` with it.
    """

    name: str | None
    get: Callable[[T], Any]
    header: str | None = None
    show: Callable[[Any], str] = str
    is_name: bool = False
    may_break: bool = False
    is_spare: bool = False
    note: str | None = None
    is_bold: Callable[[T], bool] = field(default=lambda row: False)

    def text(self, row: T) -> str:
        value = self.get(row)
        return NONE if value is None else self.show(value)


@dataclass(frozen=True)
class Table(Generic[T]):
    """``columns`` with a header over ``rows`` for people, ``frame`` for programs.

    ``problems`` are notes on what is missing and should not be. ``data`` is the frame where it is
    not that of the columns with a name, ``records`` the content of JSON where it is not that of the
    frame. When a terminal is too narrow, a table with ``repeated`` columns is shown in parts before
    any name is broken, and these columns stand first in each part.
    """

    title: str
    all_columns: Sequence[Column[T]]
    rows: Sequence[T]
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    data: pd.DataFrame | None = None
    records: list[dict[str, Any]] | None = None
    repeated: int | None = None
    is_dim: Callable[[T], bool] = field(default=lambda row: False)

    @property
    def columns(self) -> list[Column[T]]:
        return [column for column in self.all_columns if column.header is not None]

    @property
    def frame(self) -> pd.DataFrame:
        return frame_of(self.all_columns, self.rows) if self.data is None else self.data

    @property
    def all_notes(self) -> list[str]:
        return self.notes_of(self.columns)

    def notes_of(self, columns: Iterable[Column[T]]) -> list[str]:
        """The notes where people see only some of the columns."""
        return [*(c.note for c in columns if c.note), *self.notes, *self.problems]


def frame_of(columns: Iterable[Column[T]], rows: Iterable[T]) -> pd.DataFrame:
    """The columns with a name."""
    rows = list(rows)
    return typed(pd.DataFrame({c.name: [c.get(row) for row in rows] for c in columns if c.name}))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns of always the same types, whatever is missing."""
    for name in frame.columns:
        if name in _WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif frame[name].isna().all():
            frame[name] = frame[name].astype(_TYPES.get(name, np.dtype(float)))
    return frame


def frame_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows as JSON has them, null where a value is missing."""
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records
