"""A chart on the page: its picture, what it shows in words, and its numbers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``alt`` says in a sentence what there is to see; ``header`` and ``rows`` are the numbers."""

    title: str
    svg: str
    alt: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_wide: bool = False


@dataclass(frozen=True)
class Missing:
    """A chart that cannot be drawn, and why: its place on the page says so."""

    title: str
    why: str
