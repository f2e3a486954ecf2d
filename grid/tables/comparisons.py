"""The table of every pair of cells."""

from functools import partial

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE, Pair
from semigrid.grid.analysis.numbers import show_p, show_points, show_points_range
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.tables.table import Column, Table, frame_of

_show_range = partial(show_points_range, digits=1)
_COLUMNS: list[Column[Pair]] = [
    Column("dataset", lambda pair: pair.better.dataset),
    Column("cell", lambda pair: pair.better.name, "cell", is_name=True),
    Column("other", lambda pair: pair.other.name, "less", is_name=True),
    Column("difference", lambda pair: 100 * pair.comparison.difference, "points", show_points),
    Column(None, lambda pair: pair.comparison.interval, f"{LEVEL:.0%}", _show_range),
    Column("difference_low", lambda pair: 100 * pair.comparison.interval.low),
    Column("difference_high", lambda pair: 100 * pair.comparison.interval.high),
    Column("p", lambda pair: pair.comparison.p),
    Column("p_holm", lambda pair: pair.p, "p (Holm)", show_p),
    Column("separable", lambda pair: pair.separable),
    Column(None, lambda p: "separable" if p.separable else NOT_SEPARABLE, "", is_name=True),
]


def comparisons_table(results: ResultSet) -> Table[Pair]:
    """Every pair of a dataset's cells: the difference, its interval, and whether it is one."""
    pairs = [pair for of_dataset in results.standings.pairs.values() for pair in of_dataset]
    return Table(
        "Comparisons",
        _COLUMNS,
        pairs,
        frame_of(_COLUMNS, pairs),
        notes=[
            "points of Acc@1 on the same test images; p-values are corrected for all pairs of a "
            "dataset, intervals are not",
        ],
        problems=results.problems,
    )
