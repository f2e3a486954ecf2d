"""The ways out: text from data, written so that it stays text wherever it goes.

Names of classes, slices, files and datasets, licences, and errors that quote them, may hold
anything: terminal commands, formulas, markup. There is one function for each place that text is
written to, called once, where it is written. JSON needs none: ``json.dumps`` escapes it all.
"""

import codecs
import hashlib
import io
import re
import shlex
from collections.abc import Iterable
from html import escape as html_escape
from typing import Any, TextIO

from semigrid.data.redact import without_secrets

# Characters that act or cannot be seen: controls, marks without width, line ends and directions of
# Unicode, halves of a surrogate pair, tags. (Joiners, too: without them, two names look the same.)
_ACTING = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_ACTS = re.compile(f"[{_ACTING}]")
_ACTS_IN_LINES = re.compile(f"(?!\n)[{_ACTING}]")

# What an encoding may lack, in ASCII; anything else is a question mark there.
_ASCII = {
    **dict.fromkeys("‐‑‒–—−─━", "-"),
    **dict.fromkeys("‘’‚‛′", "'"),
    **dict.fromkeys("“”„″«»", '"'),
    **dict.fromkeys("•·∙", "*"),
    "±": "+-",
    "…": "...",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "≈": "~",
    "→": "->",
    "µ": "u",
}
_ON_STREAMS = "semigrid.plain"


def visible(text: str, lines: bool = False) -> str:
    r"""The text with every character that acts or cannot be seen as ``\x1b``, ``\u202e``, ….

    ``lines`` keeps line ends. Calling it twice changes nothing.
    """
    return (_ACTS_IN_LINES if lines else _ACTS).sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What is written for characters that a stream cannot encode."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    shown = (_ASCII.get(each) or visible(each) for each in characters)
    return "".join(each if each.isascii() else "?" for each in shown), error.end


codecs.register_error(_ON_STREAMS, _plain)


def encodable(text: str, encoding: str) -> str:
    """The text as a terminal of that encoding can show it, with ``-``, ``+-`` and ``?``."""
    return text.encode(encoding, _ON_STREAMS).decode(encoding)


def never_fails(stream: TextIO) -> None:
    """From here on, the stream writes what its encoding lacks as ``encodable`` does."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=_ON_STREAMS)


def terminal(text: str, encoding: str = "utf-8") -> str:
    """Text for a terminal, as it can show it. Keeps line ends."""
    return encodable(visible(text, lines=True), encoding)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# what spreadsheets calculate, also in the widths of East Asia; an apostrophe is escaped by another
_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠']")
# where the decimal mark is a comma, spreadsheets split at semicolons, inside of quotes, too
_FORMULA_AFTER_SPLIT = re.compile(r';(?=[\s"]*[=+\-@＝＋－＠])')


# how ``visible`` and ``backslashreplace`` write a character; such text of the user's own is escaped
_CODE = "(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))"
_ESCAPED, _LIKE_ESCAPED = re.compile(rf"\\{_CODE}"), re.compile(rf"\\(?={_CODE})")


def csv_cell(value: Any) -> Any:
    r"""A cell of CSV that no spreadsheet takes for a formula; what is not text stays as it is.

    A text that begins like a formula gets an apostrophe before it, a number does not. A semicolon
    before what is like a formula is as ``\x3b``.
    ``csv_value`` is the way back.
    """
    if not isinstance(value, str):
        return value
    text = visible(_LIKE_ESCAPED.sub(r"\\x5c", value))
    text = _FORMULA_AFTER_SPLIT.sub(r"\\x3b", text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def csv_value(cell: str) -> str:
    """The text that ``csv_cell`` was given."""
    return _ESCAPED.sub(
        lambda match: chr(int(match[match.lastindex or 0], 16)), cell.removeprefix("'")
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "≥": r"$\geq$",
    # brackets and stars after a line end are its arguments, quotation marks have other signs
    **{char: f"{{{char}}}" for char in '[]*`"'},
    **{char: "\\" + char for char in "&%$#_{}"},
}
# next to another, dashes and apostrophes are other characters
_LATEX_SIGN = re.compile(f"([-–—](?=[-–—])|'(?='))|[{re.escape(''.join(_LATEX))}]")


def latex(text: str) -> str:
    """The text on one line, for a paragraph or a cell of LaTeX."""

    def sign(match: re.Match[str]) -> str:
        return _LATEX.get(match[0], match[0]) + ("{}" if match[1] else "")

    return _LATEX_SIGN.sub(sign, visible(one_line(text)))


def one_line(text: str) -> str:
    """The text with one space for each run of blanks and line ends."""
    return " ".join(text.split())


# What begins emphasis, code, links, images, tables, strikethrough or mathematics; and addresses,
# mentions, issues, emoji (1:02:03 has none) and blocks, each where it begins one.
_MARKDOWN = re.compile(
    r"[\\`*_\[|~$]|:(?=//|(?!\d\d:)[\w+-]+:)|(?<!\w)@(?=\w)|@(?=[\w-]+\.)|(?<!\w)#(?=\d)|(?<=\bwww)\."
    r"|^(?:[-+](?=\s|$)|-(?=-)|=+(?=\s*$)|#{1,6}(?=\s|$))",
    re.IGNORECASE,
)
_LIST_NUMBER = re.compile(r"^(\d{1,9})(?=[.)](\s|$))")
_HTML = re.compile(r"&(?=#?\w+;)|[<>]")


def markdown(text: str) -> str:
    """The text on one line, for a paragraph, a list or a cell of a table of GitHub's Markdown."""
    marked = _MARKDOWN.sub(r"\\\g<0>", visible(one_line(text)))
    marked = _LIST_NUMBER.sub(r"\1\\", marked)
    # entities, since not every renderer knows an escaped <
    return _HTML.sub(lambda match: html_escape(match[0]), marked)


def html(text: str) -> str:
    """Text for a page; the template engine's autoescaping does the rest. Keeps line ends."""
    return visible(text, lines=True)


_UNSAFE = re.compile(r"[^\w.+=@,% -]|^[. -]|[. ]$", re.ASCII)
_LONGEST = 120  # letters; with an ending and a temporary name, below the 255 bytes of file systems


def file_name(text: str) -> str:
    """The text as the name of one file: itself where it is harmless, else with a hash of it."""
    if text and len(text) <= _LONGEST and not _UNSAFE.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{_UNSAFE.sub('_', text)[:100] or '_'}-{digest}"


def command(words: Iterable[str], encoding: str = "utf-8") -> str:
    r"""A command to paste into bash or zsh, in which every word stays what it is.

    Only the secrets of addresses are left out, which whoever pastes it gives again.
    Words with characters that act or that a terminal of this encoding lacks are as ``$'\x1b'``.
    """
    return " ".join(_word(without_secrets(word), encoding) for word in words)


def _word(word: str, encoding: str) -> str:
    if not _ACTS.search(word) and encodable(word, encoding) == word:
        return shlex.quote(word)
    return "$'" + "".join(map(_letter, word)) + "'"


def _letter(char: str) -> str:
    if " " <= char <= "~":
        return "\\" + char if char in "\\'" else char
    # a byte of a name that is not UTF-8 has been made half a surrogate pair
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
