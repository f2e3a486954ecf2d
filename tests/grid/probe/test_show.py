"""The plot of a curve: its axis, and what fits on a terminal."""

import numpy as np
import pytest

from semigrid.grid.probe.scores import curve_rows
from semigrid.grid.probe.show import WIDTH, curve_plot
from semigrid.trainers.probe.curve import Point


def plot(share: float, columns: int) -> list[str]:
    """The plot of a curve on which that share of 20 test images is right everywhere."""
    right = np.tile(np.arange(20) < 20 * share, (2, 1))
    points = [Point(images, right, right, np.ones(2)) for images in (4, 40, 400)]
    return curve_plot(curve_rows(points, np.zeros(20, int), np.ones(1)), columns)


@pytest.mark.parametrize(
    ("share", "high", "low"), [(1.0, 100, 90), (0.0, 10, 0), (0.9, 90, 80), (0.95, 100, 90)]
)
def test_the_axis_spans_ten_per_cent_or_more_and_ends_at_a_hundred(
    share: float, high: int, low: int
) -> None:
    lines = plot(share, 80)
    assert lines[0].split()[0] == f"{high}%" and lines[11].split()[0] == f"{low}%"


@pytest.mark.parametrize(("columns", "width"), [(200, WIDTH), (80, WIDTH), (60, 53), (30, 23)])
def test_the_plot_fits_on_a_terminal(columns: int, width: int) -> None:
    lines = plot(0.95, columns)[:-1]
    assert max(map(len, lines)) == 7 + width <= columns
    assert [len(line) - line.rstrip("*").count("*") for line in lines if "*" in line]
    assert lines[-1].split() == ["4", "400"]
