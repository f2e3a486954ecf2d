"""The table of every pair of cells."""

from semigrid.grid.analysis.comparisons import NOT_SEPARABLE, Pair
from semigrid.grid.analysis.numbers import show_p, show_points, show_points_range
from semigrid.grid.analysis.result_set import ResultSet
from semigrid.grid.analysis.statistics import LEVEL
from semigrid.grid.tables.table import Column, Table, frame_of


def comparisons_table(results: ResultSet) -> Table[Pair]:
    """Every pair of a dataset's cells: the difference, its interval, and whether it is one."""
    pairs = [pair for of_dataset in results.standings.pairs.values() for pair in of_dataset]
    columns: list[Column[Pair]] = [
        Column("cell", lambda pair: pair.better.name, is_name=True),
        Column("less", lambda pair: pair.other.name, is_name=True),
        Column("points", lambda pair: show_points(pair.comparison.difference)),
        Column(f"{LEVEL:.0%}", lambda pair: show_points_range(pair.comparison.interval, digits=1)),
        Column("p (Holm)", lambda pair: show_p(pair.p)),
        Column("", lambda pair: "separable" if pair.separable else NOT_SEPARABLE, is_name=True),
    ]
    return Table(
        title="Comparisons",
        columns=columns,
        rows=pairs,
        frame=frame_of(
            pairs,
            {
                "dataset": lambda pair: pair.better.dataset,
                "cell": lambda pair: pair.better.name,
                "other": lambda pair: pair.other.name,
                "difference": lambda pair: 100 * pair.comparison.difference,
                "difference_low": lambda pair: 100 * pair.comparison.interval.low,
                "difference_high": lambda pair: 100 * pair.comparison.interval.high,
                "p": lambda pair: pair.comparison.p,
                "p_holm": lambda pair: pair.p,
                "separable": lambda pair: pair.separable,
            },
        ),
        notes=[
            "points of Acc@1 on the same test images; p-values are corrected for all pairs of a "
            "dataset, intervals are not",
        ],
        problems=results.problems,
    )
