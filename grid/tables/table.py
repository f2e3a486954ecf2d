"""A table before it has a format: columns and rows for people, a data frame for programs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pandas as pd

T = TypeVar("T")

_WHOLE = ("pool_images", "test_images", "train_images")  # columns of whole numbers, or missing
_TEXT = ("unlabeled", "standing", "slice", "value", "extrapolated")  # all others are numbers


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column as people read it: its header, and the text in each row.

    A ``name`` is aligned to the left, anything else to the right. Scores and sentences
    ``may_break`` into lines, names may not. Text is bold where ``is_bold``. A ``spare`` column is
    left out where a terminal is too narrow, the last one first.
    """

    header: str
    text: Callable[[T], str]
    is_name: bool = False
    may_break: bool = False
    is_spare: bool = False
    is_bold: Callable[[T], bool] = field(default=lambda row: False)


@dataclass(frozen=True)
class Table(Generic[T]):
    """``columns`` over ``rows`` for people, ``frame`` for programs.

    ``problems`` are notes on what is missing and should not be. ``records`` is the content of JSON,
    None for the frame's rows. When a terminal is too narrow, a table with ``repeated`` columns is
    shown in parts, and these columns stand first in each part.
    """

    title: str
    columns: Sequence[Column[T]]
    rows: Sequence[T]
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    records: list[dict[str, Any]] | None = None
    repeated: int | None = None
    is_dim: Callable[[T], bool] = field(default=lambda row: False)

    @property
    def all_notes(self) -> list[str]:
        return [*self.notes, *self.problems]


def frame_of(rows: Iterable[T], fields: Mapping[str, Callable[[T], Any]]) -> pd.DataFrame:
    """A frame with the same columns whatever the rows, even none, and whatever is missing."""
    rows = list(rows)
    frame = pd.DataFrame({name: [get(row) for row in rows] for name, get in fields.items()})
    for name in frame.columns:
        if name in _WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif frame[name].isna().all():
            frame[name] = frame[name].astype("object" if name in _TEXT else "float64")
    return frame


def frame_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows as JSON has them, null where a value is missing."""
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return records
