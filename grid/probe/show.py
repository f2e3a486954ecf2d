"""A learning curve as a table and a plot of characters, as a picture, and as JSON."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table

from semigrid.grid.analysis.numbers import show_count, show_interval
from semigrid.grid.probe.scores import LEARNERS, METRICS, CurveRow, Learner
from semigrid.grid.report.charts import Series, line_picture

# Most characters of the plot and before it, and its marks; two at one place are a star.
WIDTH, HEIGHT, BEFORE = 64, 12, 7
MARKS: dict[Learner, str] = {"logistic": "o", "neighbors": "x"}
BOTH = "*"
HEADS: dict[Learner, str] = {"logistic": "logistic", "neighbors": "neighbours"}


def curve_table(rows: Sequence[CurveRow]) -> Table:
    """The scores in per cent, with intervals, in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("labels", justify="right")
    for learner in LEARNERS:
        for metric in METRICS:
            table.add_column(f"{HEADS[learner]}\n{metric}", justify="right")
    for row in rows:
        scores = (row.scores[learner, metric] for learner in LEARNERS for metric in METRICS)
        cells = [f"{100 * s.accuracy:.1f} ({show_interval(s.interval, 0)})" for s in scores]
        table.add_row(show_count(row.images), *cells)
    return table


def curve_plot(rows: Sequence[CurveRow], columns: int) -> list[str]:
    """Balanced accuracy in per cent over the logarithm of the number of labels, line by line.

    ``columns`` are those of the terminal.
    """
    width = max(1, min(WIDTH, columns - BEFORE))
    values = {
        learner: [100 * row.scores[learner, "balanced"].accuracy for row in rows]
        for learner in LEARNERS
    }
    every = np.concatenate(list(values.values()))
    high = max(10, 10 * np.ceil(every.max() / 10))
    low = min(high - 10, 10 * np.floor(every.min() / 10))
    at = np.log([row.images for row in rows])
    places = np.round((at - at[0]) / max(float(at[-1] - at[0]), 1e-9) * (width - 1)).astype(int)
    grid = [[" "] * width for _ in range(HEIGHT)]
    for learner, accuracies in values.items():
        for place, value in zip(places, accuracies, strict=True):
            line = grid[HEIGHT - 1 - round((value - low) / (high - low) * (HEIGHT - 1))]
            line[place] = MARKS[learner] if line[place] in (" ", MARKS[learner]) else BOTH
    ends = {0: f"{high:3.0f}%", HEIGHT - 1: f"{low:3.0f}%"}
    lines = [f"{ends.get(n, ''):>5} |{''.join(line)}".rstrip() for n, line in enumerate(grid)]
    first, last = show_count(rows[0].images), show_count(rows[-1].images)
    lines.append(f"{'':5} +{'-' * width}")
    lines.append(f"{'':7}{first}{last:>{width - len(first)}}")
    legend = ", ".join(f"{MARKS[learner]} {name}" for learner, name in LEARNERS.items())
    return [*lines, f"{'':7}balanced accuracy: {legend}"]


def curve_picture(rows: Sequence[CurveRow], title: str, form: str) -> bytes:
    """The balanced accuracies with their intervals as a ``png`` or ``svg`` file."""
    images = [row.images for row in rows]
    series = []
    for learner, name in LEARNERS.items():
        scores = [row.scores[learner, "balanced"] for row in rows]
        accuracies = [100 * score.accuracy for score in scores]
        series.append(Series(name, images, accuracies, [score.interval for score in scores]))
    ticks = [images[round(place)] for place in np.linspace(0, len(images) - 1, 5)]
    return line_picture(
        series, title, "labelled images", "balanced accuracy on test, %", sorted({*ticks}), form
    )


def curve_json(rows: Sequence[CurveRow]) -> list[dict[str, object]]:
    """The rows for programs; accuracies in per cent."""
    return [
        {
            "labels": row.images,
            **{
                learner: {
                    metric: {
                        "acc1": round(100 * score.accuracy, 10),
                        "low": 100 * score.interval.low,
                        "high": 100 * score.interval.high,
                    }
                    for metric in METRICS
                    for score in [row.scores[learner, metric]]
                }
                for learner in LEARNERS
            },
            "c": list(row.cs),
        }
        for row in rows
    ]
