"""A table before it has a format: what people see of a column, and what programs do."""

from operator import methodcaller

import pandas as pd

from semigrid.grid.tables.formats import Format
from semigrid.grid.tables.render import render, to_latex, to_markdown
from semigrid.grid.tables.table import Column, Table, frame_of


def test_a_column_is_for_people_for_programs_or_for_both() -> None:
    columns: list[Column[float | None]] = [
        Column("both", lambda row: row, "Both", lambda number: f"{number:.1f}"),
        Column("programs", lambda row: 2),
        Column(None, lambda row: row, "People", is_name=True),
    ]
    rows = [1.25, None]
    table = Table("Numbers", columns, rows, ["a note"])
    assert to_markdown(table).splitlines() == [
        "| Both | People |",
        "| ---: | --- |",
        "| 1.2 | 1.25 |",
        "| — | — |",  # what is missing is a dash, and empty for programs
        "",
        "a note",
    ]
    assert render(table, Format.csv).decode().splitlines() == ["both,programs", "1.25,2", ",2"]
    assert to_latex(table).splitlines()[1:] == [
        r"\begin{tabular}{rl}",
        r"\toprule",
        r"Both & People \\",
        r"\midrule",
        r"1.2 & 1.25 \\",
        r"--- & --- \\",
        r"\bottomrule",
        r"\end{tabular}",
        "% a note",
    ]


def test_columns_keep_their_types_when_nothing_is_there() -> None:
    columns: list[Column[dict[str, object]]] = [
        Column(name, methodcaller("get", name)) for name in ("pool_images", "acc1", "standing")
    ]
    full = frame_of(columns, [{"pool_images": 3, "acc1": 0.5, "standing": "best"}, {}])
    assert full.dtypes.tolist() == ["Int64", "float64", pd.Series(["best"]).dtype]
    for rows in ([{}, {}], []):
        assert frame_of(columns, rows).dtypes.equals(full.dtypes)


def test_every_text_of_csv_is_escaped_once_whatever_its_column_is() -> None:
    frame = pd.DataFrame([["=1", "=1", 0.1, 1, True], ["'b", None, None, 2, None]])
    frame.columns = pd.Index(["=a", "=a", "share", "kind", "is"])
    frame["kind"] = pd.Categorical(["=k", "+k"])
    frame["images"] = pd.array([1, None], dtype="Int64")
    table: Table[None] = Table("", (), (), data=frame)
    assert render(table, Format.csv).decode().splitlines() == [
        "'=a,'=a,share,kind,is,images",
        "'=1,'=1,0.1,'=k,True,1",
        "''b,,,'+k,,",
    ]
