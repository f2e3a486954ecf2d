"""Markdown in which text from data stays text."""

import re

# what begins emphasis, code, links, images, tables, strikethrough, mathematics, headings, addresses
_MARKS = re.compile(r"([\\`*_\[\]|~$#:@])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# control characters, and those that change the direction of the text after them
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def escape(text: str) -> str:
    """The text on one line, for a paragraph, a list or a cell of a table."""
    line = _CONTROLS.sub(" ", text).strip()
    # an HTML entity begins with & and contains no mark
    return _MARKS.sub(r"\\\1", line.translate(_HTML)) or "(empty)"


def plain(text: str) -> str:
    """The text on one line, escaped so little that it can be read as it is, too."""
    return re.sub(r"([|*_`\\<\[])", r"\\\1", " ".join(text.split()))
