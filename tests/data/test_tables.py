"""Tables as programs write them: values as a person would, and one error for what is no table."""

import datetime
import decimal
import io
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semigrid.data import tables
from semigrid.data.errors import InputError
from semigrid.data.parquet import MAX_ROWS, texts_of
from semigrid.data.tables import open_table, read_file


def csv(content: bytes, *needed: str, uri: str = "t.csv") -> dict[str, list[str]]:
    return open_table(uri, content).columns(*(needed or ("image", "label")))


def parquet(values: Any, type: Any = None) -> list[str]:
    """A column of two row groups, stored and read as text."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"value": pa.array(values, type)}), buffer, row_group_size=2)
    return open_table("t.parquet", buffer.getvalue()).columns("value")["value"]


DAY = datetime.datetime(2024, 1, 2)


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        ([0, None, 1], pa.int64(), ["0", "", "1"]),
        ([10**16 + 1, None, 10**16], pa.int64(), ["10000000000000001", "", "10000000000000000"]),
        ([2**64 - 1], pa.uint64(), ["18446744073709551615"]),
        # pandas writes integers with gaps as floats
        ([0.0, None, 1.0, float("nan"), -0.0], pa.float64(), ["0", "", "1", "", "0"]),
        ([0.1, 3, 1e300], pa.float64(), ["0.1", "3", "1e+300"]),
        ([0.1, None], pa.float32(), ["0.1", ""]),
        ([True, None, False], pa.bool_(), ["True", "", "False"]),
        ([decimal.Decimal("2.50"), None], pa.decimal128(20, 2), ["2.50", ""]),
        ([decimal.Decimal(10**30), None], pa.decimal128(38, 0), [str(10**30), ""]),
        ([DAY.date(), None], pa.date32(), ["2024-01-02", ""]),
        ([DAY, None], pa.timestamp("ns"), ["2024-01-02", ""]),
        ([DAY, DAY.replace(hour=3)], None, ["2024-01-02 00:00:00", "2024-01-02 03:00:00"]),
        (["007", None, "nan", "007"], None, ["007", "", "nan", "007"]),
        (["ä", None], pa.large_string(), ["ä", ""]),
        ([b"\xc3\xa4", None], pa.binary(), ["ä", ""]),
        ([b"sku", None], pa.binary(3), ["sku", ""]),
        ([1, None, 2, 1], pa.dictionary(pa.int8(), pa.int64()), ["1", "", "2", "1"]),
        ([None, None], pa.null(), ["", ""]),
    ],
)
def test_parquet_values_are_written_as_a_person_writes_them(
    values: list[Any], type: Any, expected: list[str]
) -> None:
    assert parquet(values, type) == expected


def test_uuids_are_text() -> None:
    name = uuid.UUID(int=5)
    stored = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([name.bytes], pa.binary(16)))
    assert parquet(stored) == [str(name)]


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        ([1e16, None, 3.0], pa.float64(), "whole numbers from 9,007,199,254,740,992 on as float64"),
        ([float(2**24), 1.0], pa.float32(), "from 16,777,216 on as float32"),
        ([[1], [2]], None, "is list<element: int64>, not text, numbers or dates"),
        ([{"bytes": b"x", "path": "p"}], None, "read with --kind parquet"),
        ([b"\xff"], pa.binary(), "has a value that cannot be read: Invalid UTF8"),
        (["a\0b"], None, "has a zero byte"),
        ([2**62], pa.timestamp("us"), "has a value that cannot be read"),
        ([], pa.string(), "no row below its header"),
    ],
)
def test_parquet_values_that_are_no_text(values: list[Any], type: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        parquet(values, type)
    assert "t.parquet: the" in str(caught.value)


def test_a_parquet_file_of_too_many_rows_is_not_read() -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"value": pa.nulls(MAX_ROWS + 1, pa.int8())}), buffer)
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(InputError, match="33,554,433 rows; 33,554,432 at most"):
        open_table("t.parquet", buffer.getvalue())


def test_a_parquet_file_that_unpacks_to_far_more_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "MAX_UNPACKED", 2**20)
    buffer = io.BytesIO()
    rows = {"image": ["a", "b"], "label": ["x" * 2**20, "y" * 2**20]}
    pq.write_table(pa.table(rows), buffer, compression="zstd")
    assert len(buffer.getvalue()) < 10_000
    with pytest.raises(InputError, match="2,097,.* bytes in 4 values, so this is no table of"):
        open_table("t.parquet", buffer.getvalue())


def test_a_table_may_have_a_column_of_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_UNPACKED", 2**20)
    buffer = io.BytesIO()
    numbers = np.random.default_rng(0).random((200, 4096), np.float32)
    pq.write_table(pa.table({"image": ["a"] * 200, "vector": list(numbers)}), buffer)
    assert open_table("t.parquet", buffer.getvalue()).columns("image") == {"image": ["a"] * 200}


GOOD = {"image": ["ä.png", "b.png"], "label": ["x", ""]}
PLAIN = "image,label\nä.png,x\nb.png,\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        f"\n{PLAIN}\n,\n , \n".encode(),  # empty rows
        PLAIN.replace("b.png,", "b.png").encode(),  # Excel's rows whose last cells are empty
        PLAIN.replace("x\n", "x, \n").replace("b.png,", "b.png,,").encode(),
        f"sep=,\n{PLAIN}".encode(),
        f"sep=;\r\n{PLAIN.replace(',', ';')}".encode("utf-16"),
        f'"sep=|"\n{PLAIN.replace(",", "|")}'.encode("utf-8-sig"),
        'image,"a;b;c",label\n"ä.png",1,"x"\n"b.png",2,\n'.encode(),
    ],
)
def test_csv_of_any_dialect(content: bytes) -> None:
    assert csv(content) == GOOD


def test_tabs_need_no_ending_and_an_ending_needs_tabs() -> None:
    assert csv(b"image\tlabel, second, third\na\tx, y\n", "image", uri="T.TSV") == {"image": ["a"]}


def test_values_stay_as_they_are() -> None:
    text = b'image,label\n"a\nb","say ""hi"", all"\n 1 ,NA\n'
    assert csv(text) == {"image": ["a\nb", " 1 "], "label": ['say "hi", all', "NA"]}
    huge = "z" * 3_000_000  # far above the limit of the csv module
    assert csv(f"image,label\n{huge},1\n".encode())["image"] == [huge]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"image,label\na,1\nb,2,3\n", r"row 2 has 3 columns, the header has 2 \(image, label\)"),
        (b"image|label\na|1\n", "no column 'image'; there are image|label; .* commas, semicolons"),
        (b"Photographs\nimage,label\na,1\n", "names in the first row"),
        (b"sep=|\nimage|label\na,1\n|1|2\n", "row 2 has 3 .* values with '|' must stand"),
        (b'sep=;\nimage;label\na;"x\n', r"row 1 \(line 3\) is not CSV"),
        (b"image,label,label\na,1,2\n", "2 columns are named 'label'"),
        (b"image, label\na,1\n", "there is no column 'label'; there are image, ' label'"),
        (b"photos/1.png,cat\n", "there is no column 'image'; there are photos/1.png, cat"),
        (b"image,label\na,1\n\xe4,1\n", r"line 3 is not UTF-8: b'\\xe4,1\\n'; save the file as"),
        (b"image,label\na\0,1\n", "line 2 has a zero byte"),
        ("image,label\na,1\n".encode("utf-16-le"), "line 1 has a zero byte"),
        (b"\xff\xfea", "begins like UTF-16 but is not"),
        (b'image,label\na,"x\nb,y\n', r"row 1 \(line 3\) is not CSV: unexpected end of data"),
        (b'image,label\na,"x\nb,"y"\n', r"row 1 \(line 3\) is not CSV"),
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"image,label\n", "no row below its header"),
    ],
)
def test_csv_that_cannot_be_read(content: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=f"^t.csv: .*{expected}"):
        csv(content)


def test_names_that_are_not_needed_may_be_blank_or_repeated() -> None:
    assert csv(b",image,label,,\n0,a,1,,\n") == {"image": ["a"], "label": ["1"]}


@given(st.binary(max_size=200))
@example(b"PAR1" + bytes(range(60)) + b"PAR1")
def test_no_bytes_end_in_another_error(content: bytes) -> None:
    for start in (b"", b"image,label\n", b"\xff\xfe"):
        try:
            columns = csv(start + content)
            assert len({*map(len, columns.values())}) == 1
        except InputError as error:
            assert str(error).startswith("t.csv: ")


@given(st.lists(st.tuples(st.integers(4, 3000), st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_parquet_never_ends_in_another_error(changes: list[tuple[int, int]]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": ["a", "b"] * 20, "label": np.arange(40)}), buffer)
    content = bytearray(buffer.getvalue())
    for place, change in changes:
        content[place % len(content)] ^= change
    try:
        csv(bytes(content))
    except InputError as error:
        assert str(error).startswith("t.csv: ")


def test_columns_with_fewer_values_than_the_table_has_rows_are_damage() -> None:
    buffer = io.BytesIO()
    table = pa.table({"image": ["a", "b"] * 20, "label": range(40)})
    pq.write_table(table, buffer, row_group_size=10, compression="none")
    found = set()
    for place in range(4, 300):  # the first pages and their headers
        content = bytearray(buffer.getvalue())
        content[place] ^= 2
        try:
            columns = csv(bytes(content))
            assert {*map(len, columns.values())} == {40}
        except InputError as error:
            found.add(str(error).partition("damaged: ")[2])
    assert "it has 30 values in 40 rows" in found


def test_an_index_outside_a_dictionary_is_damage() -> None:
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int8()), ["x"], safe=False)
    with pytest.raises(InputError, match="the column has a value that cannot be read: .*bounds"):
        texts_of("the column", pa.chunked_array([beyond]))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="/dev/zero: cannot be read"):
        read_file("/dev/zero")
    (tmp_path / "long.csv").write_bytes(bytes(11))
    monkeypatch.setattr(tables, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="long.csv: cannot be read: larger than 10 bytes"):
        read_file(f"{tmp_path}/long.csv")
    with pytest.raises(InputError, match="none.csv: cannot be read"):
        read_file(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        read_file(str(tmp_path))
