import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semigrid.data.order import Share, StreamOrder

units = st.lists(st.integers(1, 7), min_size=1, max_size=6)
seeds = st.integers(0, 2**31)


@given(unit_rows=units, seed=seeds)
def test_every_pass_visits_each_row_once(unit_rows: list[int], seed: int) -> None:
    order = StreamOrder(unit_rows, seed)
    stream = list(order.rows(0, 3 * order.total))
    for number in range(3):
        passed = stream[number * order.total : (number + 1) * order.total]
        assert {pass_number for pass_number, _ in passed} == {number}
        assert sorted(row for _, row in passed) == list(range(order.total))


@given(unit_rows=units, seed=seeds, cuts=st.lists(st.integers(0, 60), max_size=5))
def test_any_pieces_of_the_stream_make_the_whole(
    unit_rows: list[int], seed: int, cuts: list[int]
) -> None:
    order = StreamOrder(unit_rows, seed)
    edges = [0, *sorted(cuts), 60]
    pieces = [
        row
        for start, stop in zip(edges, edges[1:], strict=False)
        for row in order.rows(start, stop)
    ]
    assert pieces == list(StreamOrder(unit_rows, seed).rows(0, 60))


@given(unit_rows=units, seed=seeds)
def test_spans_tile_the_stream_and_are_found_by_position(unit_rows: list[int], seed: int) -> None:
    order = StreamOrder(unit_rows, seed)
    position = 0
    for number in range(3 * len(unit_rows)):
        span = order.span_at(number)
        assert span.start == position
        assert span.rows == unit_rows[span.unit]
        for place in range(span.start, span.start + span.rows):
            assert order.span_number(place) == number
        position += span.rows


@given(unit_rows=units, seed=seeds)
def test_a_unit_is_read_in_one_go(unit_rows: list[int], seed: int) -> None:
    # a reader holds one unit in memory: the stream must not jump between them
    order = StreamOrder(unit_rows, seed)
    for number in range(len(unit_rows)):
        span = order.span_at(number)
        first = order.unit_starts[span.unit]
        rows = [row for _, row in order.rows(span.start, span.start + span.rows)]
        assert sorted(rows) == list(range(first, first + span.rows))
        assert [row - first for row in rows] == order.rows_of(span).tolist()


def test_passes_and_seeds_differ() -> None:
    order = StreamOrder([20, 20], seed=0)
    first, second = ([row for _, row in order.rows(p * 40, p * 40 + 40)] for p in (0, 1))
    other = [row for _, row in StreamOrder([20, 20], seed=1).rows(0, 40)]
    assert first != second
    assert first != other


def test_units_come_in_another_order_in_the_next_pass() -> None:
    order = StreamOrder([1] * 20, seed=0)
    first, second = ([order.span_at(p * 20 + i).unit for i in range(20)] for p in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second


def test_the_order_is_the_same_on_every_machine() -> None:
    # changing it changes the numbers of every training: raise RECIPE_VERSION then
    assert list(StreamOrder([3, 2], seed=0).rows(0, 10)) == [
        *[(0, 0), (0, 2), (0, 1), (0, 3), (0, 4)],
        *[(1, 1), (1, 2), (1, 0), (1, 3), (1, 4)],
    ]


def test_pickling_keeps_the_order() -> None:
    order = StreamOrder([4, 3], seed=5)
    list(order.rows(0, 20))  # fills the caches, which do not pickle
    copy = pickle.loads(pickle.dumps(order))
    assert list(copy.rows(3, 30)) == list(order.rows(3, 30))


def test_a_stream_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        StreamOrder([], seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_shares_of_all_ranks_partition_each_global_batch(world_size: int) -> None:
    shares = [Share(12, rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 7):
        positions = [range(*share.positions(step)) for share in shares]
        assert [p for part in positions for p in part] == list(range(12 * step, 12 * step + 12))
        for share, part in zip(shares, positions, strict=True):
            assert len(part) == share.local_batch_size
            owned = [p for p in range(12 * step, 12 * step + 12) if share.owns(p)]
            assert owned == list(part)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match="global batch of 10 cannot be divided equally among 4 workers"
    ):
        Share(10, 0, 4)
