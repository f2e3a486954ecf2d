"""How often cells that are all equally good are told from the one that was picked by its score.

The highest of many equal cells is above the others by luck, and each of them is compared with it:
in a grid where any of these differences is said to be certain, something false is said. Images are
of all difficulties, alike for all cells; trainings scatter.
"""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from semigrid.grid.analysis.comparisons import comparer
from semigrid.grid.analysis.statistics import plain
from semigrid.grid.study.plan import Cell

GRIDS = 300
STEADY, FAR = 0.1, 0.3  # in logits: 1.5 and 4 points of accuracy or so
# name, cells, test images, seeds, scatter of one cell in four
SHAPES = [
    ("9 cells, 1,000 test images, 1 seed", 9, 1000, 1, STEADY),
    ("36 cells, 1,000 test images, 1 seed", 36, 1000, 1, STEADY),
    ("9 cells, 1,000 test images, 3 seeds", 9, 1000, 3, STEADY),
    ("36 cells, 1,000 test images, 3 seeds", 36, 1000, 3, STEADY),
    ("36 cells, 1,000 test images, 3 seeds, a quarter scatter more", 36, 1000, 3, FAR),
]


def chosen() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    for what, cells, images, seeds, scatter in SHAPES:
        told, width = grids(cells, images, seeds, scatter, GRIDS)
        goal = "at most 5 %" if scatter == STEADY else ""
        yield f"{what}: any told from the highest", f"{told:.1%}", goal
        yield f"{what}: width of an interval", f"{100 * width:.1f} points", ""


def grids(cells: int, images: int, seeds: int, scatter: float, times: int) -> tuple[float, float]:
    """The share of grids with a cell whose interval below the highest excludes 0, and the width.

    With one seed cells are equal as trained: their trainings do not scatter.
    """
    draw = np.random.default_rng([cells, images, seeds, int(100 * scatter)])
    scatters = np.where(np.arange(cells) % 4 == 0, scatter, STEADY) * (seeds > 1)
    names = [Cell("made-up", f"model {number}", Fraction(1), None) for number in range(cells)]
    told, widths = 0, []
    for _ in range(times):
        difficulty = draw.logistic(0, 0.8, images)
        right = {}
        for name, far in zip(names, scatters, strict=True):
            skill = 1 + draw.normal(0, far, (seeds, 1))
            right[name] = plain(difficulty + draw.logistic(0, 0.6, (seeds, images)) < skill)
        compared = comparer(right)
        best = max(names, key=lambda name: right[name].mean())
        found = [compared(name, best).interval for name in names if name != best]
        told += any(interval.high < 0 for interval in found)
        widths += [interval.high - interval.low for interval in found]
    return told / times, float(np.median(widths))
