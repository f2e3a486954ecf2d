"""What ``make accuracy`` prints: a line for each set and number of labels, in Markdown."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from semigrid.grid.analysis.comparisons import Planned
from semigrid.grid.analysis.result_set import CellResult, ResultSet
from semigrid.grid.commands.context import load, open_results


def table(files: Sequence[Path]) -> Iterator[str]:
    """The results of the experiments, as far as they are finished."""
    yield "| set | labels to train | pool | fine-tuned | as long as semi | semi | semi − as long |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for file in files:
        yield from rows(open_results(load(str(file))))


def rows(results: ResultSet) -> Iterator[str]:
    """A set's lines: balanced Acc@1 on test, and what the pool is worth beyond its steps."""
    for semi in results.rows:
        if semi.cell.unlabeled is None or semi.cell.control is not None:
            continue
        alike = [row for row in results.rows if row.cell.labels == semi.cell.labels]
        tuned = next(row for row in alike if row.cell.unlabeled is None)
        control = next(row for row in alike if row.cell.control == "compute")
        scores = " | ".join(score(row) for row in (tuned, control, semi))
        worth = difference(results.planned.get(semi.cell))
        labels = semi.label_count.train
        yield f"| {semi.cell.dataset} | {labels} | {semi.pool_images} | {scores} | {worth} |"


def score(row: CellResult) -> str:
    """``81.2 [77.0, 84.9]``; a cell without scores has a dash."""
    mean, interval = row.mean("acc1"), row.interval
    if mean is None or interval is None:
        return "–"
    return f"{mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def difference(pair: Planned | None) -> str:
    """``+1.3 [−0.4, +3.0]``: points above the control, paired, and their 95 % interval."""
    if pair is None:
        return "–"
    mean, interval = pair.comparison.difference, pair.comparison.interval
    low, high = interval.low, interval.high
    return f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-", "−")
