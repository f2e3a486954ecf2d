"""Every command over a dataset and a finished run in which every name is nasty."""

import csv
import io
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from tests.helpers.command import semigrid
from tests.helpers.finished import FinishedGrid
from tests.helpers.shop import SETTINGS, shop

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.escape import csv_value, visible
from semigrid.data.sources.files import folder_items
from semigrid.grid.tables.formats import Format, View

ESCAPE = "cat\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e\u200b"
CLASSES = [
    ESCAPE,
    "=cmd|'/C calc'!A0 [/x][red]:cat:</script><b>`$x_1$`\\input{x}&amp;\r\n-5",
    "猫" + "L" * 200,
]
SLICE = "@slice[/y]\x1b[1m|"
STYLES = ("strong_open", "strong_close")
VALUES = ["+1+1\t[bold]x[/bold]", "[unknown]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedGrid]:
    folder = tmp_path_factory.mktemp("names")
    items = [
        replace(
            item,
            label=None if number % 6 == 5 else CLASSES[number % 3],
            slices={SLICE: VALUES[number % 2]},
        )
        for number, item in enumerate(folder_items(str(shop(folder / "images", 120))))
    ]
    request = SETTINGS.model_copy(update={"license": f"CC0 {ESCAPE} [/i]", "name": f"d{ESCAPE}"})
    build_dataset(str(folder / "shop [old]"), items, request)
    grid = FinishedGrid(
        folder,
        seeds=2,
        datasets={"shop": str(folder / "shop [old]")},
        grid=[
            {"model": "vit", "labels": ["100%"]},
            {"model": "semi-vit", "labels": ["100%"], "unlabeled": ["50%", "100%"]},
        ],
    )
    images = len(grid.ids)
    for cell in ("vit/100%", "semi-vit/100%/50%", "semi-vit/100%/100%"):
        grid.finish(f"shop/{cell}", images // 2, images // 2 + 3)
    yield grid


def output(*words: str, encoding: str = "utf-8") -> str:
    """What a command prints on both streams, which acts nowhere; it succeeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = semigrid(*words, encoding=encoding)
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert visible(text, lines=True) == text
    return done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_commands_show_names_as_they_are(finished: FinishedGrid, encoding: str) -> None:
    file, data = str(finished.file), str(finished.file.parent / "shop [old]")
    shown = output("data", "show", data, encoding=encoding)
    cells = [line.split("|" if encoding == "ascii" else "│")[1:2] for line in shown.splitlines()]
    column = "".join(text.strip() for cell in cells for text in cell)
    for name in (ESCAPE, CLASSES[1]) if encoding == "utf-8" else ():
        assert visible(name).replace(" ", "") in column.replace(" ", "")
    assert "L" * 100 in column
    assert "licence CC0 cat\\x1b]0;pwned\\x07" in shown and "[/i]" in shown
    assert "slice @slice[/y]\\x1b[1m|: +1+1\\x09[bold]x[/bold]: " in shown
    assert "[/i]" in output("plan", file, encoding=encoding)
    for words in (("data", "check", data), ("status", file), ("answer", file)):
        assert output(*words, encoding=encoding)
    for words in (("data", "show", data), ("plan", file), ("status", file), ("answer", file)):
        text = output(*words, "--json", encoding=encoding)
        assert text.isascii() and json.loads(text)
    facts = json.loads(output("data", "show", data, "--json"))
    assert {row["class"] for row in facts["classes"]} == set(CLASSES)


def test_every_view_is_a_table(finished: FinishedGrid) -> None:
    for view in View:
        assert output("table", str(finished.file), "--view", view)


@pytest.mark.parametrize("view", ["classes", "confusions", SLICE])
def test_tables_hold_names_as_text_in_every_format(finished: FinishedGrid, view: str) -> None:
    words = ["table", str(finished.file), "--by" if view == SLICE else "--view", view]
    for format in (Format.terminal, Format.markdown, Format.latex):
        assert output(*words, "--format", format)
        output(*words, "--format", format, encoding="latin-1").encode("latin-1")
    parsed = MarkdownIt("commonmark").enable("table").parse(output(*words, "--format", "markdown"))
    inline = {child.type for token in parsed for child in token.children or []}
    assert parsed[0].type == "table_open" and inline <= {*STYLES, "text", "text_special"}
    records = json.loads(output(*words, "--json"))
    for encoding in ("utf-8", "ascii"):
        text = output(*words, "--format", "csv", encoding=encoding)
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        assert len(rows) == len(records) or view == SLICE
        for cell in [*header, *(cell for row in rows for cell in row)]:
            assert cell[:1] not in tuple("=+@\t\r") and (cell[:1] != "-" or float(cell) <= 0)
        if "class" in header:
            names = {csv_value(row[header.index("class")]) for row in rows}
            assert names == set(CLASSES)
            read = pd.read_csv(io.StringIO(text), keep_default_na=False)
            assert {csv_value(name) for name in read["class"]} == names


def test_the_report_shows_names_as_they_are(finished: FinishedGrid, tmp_path: Path) -> None:
    output("report", str(finished.file), "--output", str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert visible(page, lines=True) == page
    assert "cat\\x1b]0;pwned\\x07" in page and "&amp;lt;" not in page
    assert "[/x][red]:cat:&lt;/script&gt;&lt;b&gt;`$x_1$`\\input{x}&amp;amp;\\x0d" in page


def test_nothing_is_printed_but_by_the_console() -> None:
    root = Path(__file__).parents[3]
    files = [path for part in ("data", "trainers", "grid") for path in (root / part).rglob("*.py")]
    printing = {
        path.name for path in files if re.search(r"(?<![.\w])(print|Console)\(", path.read_text())
    }
    assert len(files) > 150 and printing == {"console.py"}
