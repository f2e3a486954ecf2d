"""Text from data in Markdown, where it must stay text."""

import re
from collections.abc import Sequence

# what begins emphasis, code, links, images, tables, strikethrough, mathematics, headings, addresses
_MARKS = re.compile(r"([\\`*_\[\]|~$#:@])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# control characters, and those that turn the direction of what follows them
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def escape(text: str) -> str:
    """The text on one line, for a paragraph, a list or a cell of a table."""
    line = _CONTROLS.sub(" ", text).strip()
    html = "".join(_HTML.get(letter, letter) for letter in line)
    # an entity begins with & and has no mark in it
    return _MARKS.sub(r"\\\1", html) or "(empty)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """A table's lines; ``align`` has ``l`` or ``r`` for each column. Cells are Markdown already."""
    rules = ["---:" if side == "r" else "---" for side in align]
    return ["| " + " | ".join(line) + " |" for line in (head, rules, *rows)]


def plain(text: str) -> str:
    """The same for tables that are read as they are, too: only what would not stay text there."""
    return re.sub(r"([|*_`\\<\[])", r"\\\1", " ".join(text.split()))
