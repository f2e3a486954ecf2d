"""Prediction tables of other people: what no evaluation writes is named, and never unpacked."""

import io
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from semigrid.trainers.evaluation.predictions import Predictions, decode_predictions

IDS, LABELS = ["a", "b", "c"], np.array([0, 1, 1])
ROWS = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
WHOLE = Predictions(IDS, LABELS, ROWS, {"where": ["north", None, "south"]}).encode()


def changed(**columns: Any) -> bytes:
    """The table with other columns; without one that is None."""
    table = pq.read_table(pa.BufferReader(WHOLE))
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        if place >= 0:
            table = table.remove_column(place)
        if values is not None:
            table = table.append_column(name, values)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def probabilities(rows: Any, length: int = 2) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float64(), length))


def test_a_table_comes_back_as_it_was() -> None:
    found = decode_predictions(WHOLE, 3, 2)
    assert (found.ids, found.labels.tolist()) == (IDS, [0, 1, 1])
    assert found.probabilities.tolist() == ROWS.tolist()
    assert found.slices == {"where": ["north", None, "south"]}
    # a slice without a value anywhere has no type
    nothing = Predictions(IDS, LABELS, ROWS, {"where": [None] * 3}).encode()
    assert decode_predictions(nothing, 3, 2).slices == {"where": [None] * 3}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (WHOLE[:-9], "not a table of predictions"),
        (b"", "not a table of predictions"),
        (changed(label=None), "there is no column 'label'"),
        (changed(label=pa.array([0, 1, 2])), "the label 2 is no class: they are 0 to 1"),
        (changed(label=pa.array([0, -1, 1])), "the label -1 is no class"),
        (changed(label=pa.array([0, 3_000_000_000, 1])), "the label 3000000000 is no class"),
        (changed(label=pa.array([0.0, 1.0, 1.0])), "'label' is of double, not of int64"),
        (changed(label=pa.array([0, None, 1])), "a value is missing"),
        (changed(image_id=pa.array([1, 2, 3])), "'image_id' is of int64, not of string"),
        (changed(image_id=pa.array(["a", None, "c"])), "a value is missing"),
        (changed(probabilities=None), "there is no column 'probabilities'"),
        (changed(probabilities=pa.array([[1.0], [1.0], [1.0]])), "'probabilities' is of list"),
        (changed(probabilities=probabilities(np.eye(3).tolist(), 3)), "'probabilities' is of"),
        (changed(probabilities=probabilities([[0.5, 0.5], None, [1, 0]])), "a value is missing"),
        (changed(probabilities=probabilities([[0.5, 0.5], [None, 1], [1, 0]])), "not a number"),
        (changed(probabilities=probabilities([[0.5, 0.5], [np.nan, 1], [1, 0]])), "not a number"),
        (changed(probabilities=probabilities([[0.5, 0.5], [-1, 2], [1, 0]])), "not a number"),
        (
            changed(probabilities=probabilities([[0.5, 0.5], [9, 1], [1, 0]])),
            "of b do not sum to 1",
        ),
        (changed(where=pa.array([1, 2, 3])), "'where' is of int64, not of string"),
        (
            Predictions(IDS[:2], LABELS[:2], ROWS[:2]).encode(),
            "2 rows, but there are 3 test images",
        ),
    ],
)
def test_what_no_evaluation_writes_is_named(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        decode_predictions(content, 3, 2)


def test_a_small_file_that_promises_much_is_not_unpacked() -> None:
    # a billion rows would be 24 GB; run lengths make kilobytes of them
    rows = 10**6
    table = pa.table(
        {
            "image_id": pa.repeat(pa.scalar("a"), rows),
            "label": pa.repeat(pa.scalar(0), rows),
            "probabilities": pa.FixedSizeListArray.from_arrays(
                pa.repeat(pa.scalar(0.5), 2 * rows), 2
            ),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert len(buffer.getvalue()) < 50_000
    with pytest.raises(ValueError, match=r"1,000,000 rows, but there are 3 test images"):
        decode_predictions(buffer.getvalue(), 3, 2)
    # one long text, once in the file, is a value of each row
    many = Predictions([str(i) for i in range(400)], np.zeros(400, int), np.ones((400, 1)))
    long = pa.repeat(pa.scalar("x" * 10**5), 400).dictionary_encode()
    table = pq.read_table(pa.BufferReader(many.encode())).append_column(
        "where", long.cast(pa.string())
    )
    pq.write_table(table, buffer := io.BytesIO())
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="40,000,000 bytes of text for 400 images"):
        decode_predictions(buffer.getvalue(), 400, 1)
    assert pa.total_allocated_bytes() - before < 10**7


# bytes of the footer that once ended the process
@example(at=431, byte=62)
@example(at=494, byte=33)
@example(at=901, byte=35)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_a_table_or_a_message(at: int, byte: int) -> None:
    content = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        found = decode_predictions(content, 3, 2)
    except ValueError:
        return
    assert len(found.ids) == 3 and set(found.labels) <= {0, 1}
