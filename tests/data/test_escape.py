"""Whatever a text holds, each way out keeps it text, and readers get it back."""

import csv
import io
import json
import re
import subprocess
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from markdown_it import MarkdownIt

from semigrid.data import escape
from semigrid.data.redact import without_secrets

# what people and attackers write, between any other characters
PIECES = [
    "\x1b[2J", "\x1b]0;x\x07", "\x9b31m", "\r", "\n", "\t", "\x00", "\x7f", "\u202e",
    "\u2066", "\u200b", "\u200d", "\ufeff", "\u2028", "\udce9", "\ud800", "\U000e0041",
    "[/x]", "[red]", ":cat:", "=1+1", "-2", "+a", "@x", "＝1", "'", '"', " ", "-", "$x$",
    "\\input{/etc/passwd}", "&amp;", "<b>", "</script>", "javascript:x", "|", "`", "```",
    "**a**", "_b_", "~~c~~", "[l](http://x.y)", "![i](u)", "https://x.y", "www.x.y",
    "a@b.cd", "#1", "# h", "- i", "1. o", "> q", "\\x1b", "\\", "../", "/", "..", "ü", "中",
    "😀", "±", "—", "%", "{", "}", "--", ";", ";=1", "12. o", "3) o", "1:02:03", ",",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)


def acts(text: str, allowed: str = "") -> bool:
    """Whether a character is a control, a mark without width, or half a surrogate pair."""
    return any(
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in "\u200b\u200d\u202e\ufeff"
        for char in text
        if char not in allowed
    )


@given(TEXTS)
def test_acting_characters_are_seen(text: str) -> None:
    for lines in (False, True):
        shown = escape.visible(text, lines)
        assert not acts(shown, "\n" if lines else "")
        assert escape.visible(shown, lines) == shown


def test_only_acting_characters_change() -> None:
    kept = "ü 中 😀 a\\b C:\\users \\x1b \xa0 ±"
    assert escape.visible(kept) == kept
    assert escape.visible("\x1b[1mé\udce9\n") == "\\x1b[1mé\\udce9\\x0a"
    assert escape.visible("a\nb\r", lines=True) == "a\nb\\x0d"


@given(TEXTS, st.sampled_from(["utf-8", "latin-1", "ascii", "cp1252", "koi8-r", "gbk"]))
def test_a_terminal_shows_any_text_in_any_encoding(text: str, encoding: str) -> None:
    shown = escape.terminal(text, encoding)
    assert not acts(shown, "\n") and shown.count("\n") == text.count("\n")
    shown.encode(encoding)


def test_what_an_encoding_lacks_is_a_plain_sign_or_a_question_mark() -> None:
    assert escape.terminal("5 ± 1 — 3 × “ä” 中…", "ascii") == '5 +- 1 - 3 x "?" ?...'
    assert escape.terminal("5 ± 1 — 3 × ä 中", "latin-1") == "5 ± 1 - 3 × ä ?"
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    escape.never_fails(stream)
    print("a — ä 中 \udce9", file=stream, flush=True)
    assert stream.buffer.getvalue() == b"a - \xe4 ? \\udce9\n"  # type: ignore[attr-defined]


@given(st.lists(TEXTS, min_size=1, max_size=3))
@example(["=cmd|'/C calc'!A0", " =1", "\t=1"])
@example(["'quoted", "''", "-5", "\\x1b", "\\\\u202e", "\\x5cx41"])
@example(["a;=cmd", 'a; "=cmd', "a;\\t=1", "a\\x3b=1", "a;b"])
def test_csv_holds_no_formula_and_gives_texts_back(texts: list[str]) -> None:
    frame = pd.DataFrame([[-1.5, *map(escape.csv_cell, texts)]])
    content = frame.to_csv(index=False, header=False).encode()
    ((number, *row),) = csv.reader(io.StringIO(content.decode(), newline=""))
    assert number == "-1.5"
    for cell in row:
        assert not acts(cell)
        if cell.strip()[:1] in [*"=+-@＝＋－＠"] and cell.strip():
            float(cell)  # a number, not a formula
        # nor does one come about where semicolons divide cells
        for part in cell.split(";")[1:]:
            assert part.strip(' "')[:1] not in [*"=+-@＝＋－＠"] or not part.strip(' "')
    assert [escape.csv_value(cell) for cell in row] == texts
    if any("\ud800" <= char <= "\udfff" for char in "".join(texts)):
        return  # pandas has no such text
    # the documented way with pandas
    read = pd.read_csv(
        io.BytesIO(content),
        header=None,
        keep_default_na=False,
        converters=dict.fromkeys(range(1, 1 + len(texts)), escape.csv_value),
    )
    assert read.iloc[0].tolist() == [-1.5, *texts]


def test_numbers_stay_numbers_in_csv() -> None:
    assert [escape.csv_cell(value) for value in (-1, -0.5, None, True)] == [-1, -0.5, None, True]
    assert [escape.csv_cell(t) for t in ("-5", "+.5", "1e-3", "-1+2")] == [
        *("-5", "+.5", "1e-3"),
        "'-1+2",
    ]


def latex_text(source: str) -> str:
    """What TeX typesets; fails on anything but text."""
    signs = {v: k for k, v in escape._LATEX.items()}
    pieces = re.findall(
        r"\\text\w+\{\}|\$\\?\w+\$|\$-\$|\{[^\\{}]\}|\\[&%$#_{}]|---?(?!-)|[-'](?:\{\})?(?![-'])"
        r"|\{\}(?=[-'])|[^\\{}$&#^_~%]",
        source,
    )
    assert "".join(pieces) == source
    return "".join(signs.get(p) or p.removesuffix("{}") for p in pieces)


@given(TEXTS)
@example("\\\\[2cm] *x --- '' a—b --–- 1–2\n\n\\end{tabular}")
def test_latex_typesets_the_text(text: str) -> None:
    assert latex_text(escape.latex(text)) == escape.visible(" ".join(text.split()))


def markdown_text(source: str) -> str:
    """The text of a document that must be one paragraph of text alone."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(source)
    if not source:
        return ""
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    return "".join(child.content for child in children)


@given(TEXTS)
@example("- a")
@example("1. a")
@example("12. a")
@example("10) a")
@example("123456789.")
@example("===")
@example("a\n---")
@example("&lt; &amp;amp; R&D <b>")
def test_markdown_is_one_paragraph_of_text(text: str) -> None:
    shown = escape.markdown(text)
    assert markdown_text(shown) == escape.visible(" ".join(text.split()))
    table = MarkdownIt("commonmark").enable("table").parse(f"| a |\n| - |\n| {shown} |\n")
    assert [token.type for token in table].count("td_open") == 1


def test_markdown_escapes_only_what_would_be_more_than_text() -> None:
    for text in ("1:02:03", "12.5 x", "1:2", "12:30", "1234567890. a", "a 12. b"):
        assert escape.markdown(text) == text
    assert escape.markdown("12. x") == "12\\. x" and escape.markdown("10) x") == "10\\) x"
    for emoji in (":cat:", "3:cat:", ":100:", ":+1:", ":1234:", ":8ball:"):
        assert escape.markdown(emoji).count("\\:") == 1


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(f"{tag} {attrs}")

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXTS)
def test_a_page_shows_the_text(text: str) -> None:
    page = Environment(autoescape=True).from_string('<p title="{{ t }}">{{ t }}</p>')
    content = page.render(t=escape.html(text)).encode().decode()
    parser = Texts()
    parser.feed(content)
    parser.close()
    shown = escape.visible(text, lines=True)
    assert parser.text == shown and parser.tags == [f"p {[('title', shown)]}"]


@given(TEXTS | st.text(min_size=150, max_size=300))
@example("..")
@example("x" * 300)
@example("")
def test_a_file_name_is_one_name(text: str) -> None:
    name = escape.file_name(text)
    assert re.fullmatch(r"[\w+=@,%][\w.+=@,% -]*", name, re.ASCII) and len(name) < 150
    assert Path("folder", name).resolve().parent == Path("folder").resolve()
    assert escape.file_name(name) == name
    if text != name:
        assert escape.file_name(text + "/") != name != escape.file_name("/" + text)


@settings(max_examples=10)
@given(st.lists(TEXTS, max_size=4))
@example(["it's", "a b", "[x]", "\x1b[2J", "\udce9", "!", "\\'", "\x01a"])
def test_a_pasted_command_has_the_words_it_was_made_of(words: list[str]) -> None:
    for encoding in ("utf-8", "ascii"):
        line = escape.command(words, encoding)
        line.encode(encoding)
        assert not acts(line)
        if re.search("[\0\ud800-\udc7f\udd00-\udfff]", "".join(words)):
            continue  # no process can be given such a word
        script = f"printf '%s\\0' x {line}"
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
        assert done.stdout.decode("utf-8", "surrogateescape").split("\0")[1:-1] == [
            *map(without_secrets, words)
        ]
    assert escape.command(["run", "a b", "ü"]) == "run 'a b' 'ü'"


@given(TEXTS)
def test_json_needs_no_function(text: str) -> None:
    written = json.dumps(text)
    assert written.isascii() and not acts(written)
    # two halves of a character, side by side, are read as that character
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(written) == whole
