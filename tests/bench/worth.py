"""How often a grid says that its unlabelled images help, where they do and where they do not.

Whole made-up grids go through ``answer``: a baseline on four label fractions, a semi-supervised
model and its compute control. In one world the pool is worthless: longer training gives both 5
points over the baseline. In the other the pool is worth 3 points on top of these. Images are of
all difficulties, alike for all cells; trainings scatter as in ``coverage``.
"""

from collections.abc import Iterator

import numpy as np
from tests.bench.coverage import DIFFICULTY, accuracies_at, logit_with, trained
from tests.helpers.made_up import MadeUpGrid, predicted

from semigrid.grid.analysis.answer import answer

GRIDS = 300
SCATTER = 0.15  # in logits: two points of accuracy or so
LONGER, WORTH = 0.05, 0.03
# the baseline's accuracy by label fraction, a mean over classes
BASELINE = {"25%": 0.60, "50%": 0.65, "75%": 0.68, "100%": 0.70}
# name, classes, test images of each, label fractions, seeds
SHAPES = [
    ("1,000 test images, 4 fractions, 3 seeds", 20, 50, list(BASELINE), 3),
    ("1,000 test images, 4 fractions, 1 seed", 20, 50, list(BASELINE), 1),
    ("1,000 test images, 1 fraction, 3 seeds", 20, 50, ["25%"], 3),
    ("1,000 test images, 1 fraction, 1 seed", 20, 50, ["25%"], 1),
    ("200 test images, 4 fractions, 3 seeds", 10, 20, list(BASELINE), 3),
]


def worth() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    for what, classes, images, fractions, seeds in SHAPES:
        held, enough = grids(classes, images, fractions, seeds, 0.0, GRIDS)
        yield f"{what}, worthless pool: said to help", f"{held:.1%}", "at most 5 %"
        if len(fractions) > 1:
            yield f"{what}: too few labels said to be enough", f"{enough:.1%}", "at most 5 %"
        held, _ = grids(classes, images, fractions, seeds, WORTH, GRIDS)
        goal = "at least 80 %" if what == SHAPES[0][0] else ""
        yield f"{what}, pool worth 3 points: said to help", f"{held:.1%}", goal


def grids(
    classes: int, images: int, fractions: list[str], seeds: int, worth: float, times: int
) -> tuple[float, float]:
    """Shares of grids that say the pool helps, and that a fraction is enough.

    Each fraction below 100 % is 2 points or more below labels alone with 100 %, if the pool is
    worth nothing.
    """
    draw = np.random.default_rng([classes, images, len(fractions), seeds, int(1000 * worth)])
    grid = MadeUpGrid(
        grid=[{"model": model, "labels": fractions} for model in ("vit", "semi-vit")],
        controls=["compute"],
        seeds=seeds,
    )
    labels = np.repeat(np.arange(classes), images)
    middle = np.array([logit_with(each, SCATTER) for each in np.linspace(0.9, 0.3, classes)])
    shifts = np.linspace(-3, 4, 701)
    means = [accuracies_at(middle + shift, SCATTER).mean() for shift in shifts]
    held = enough = 0
    for _ in range(times):
        difficulty = draw.normal(0, DIFFICULTY, len(labels))
        found = {}
        for cell in grid.plan.cells:
            accuracy = BASELINE[f"{float(100 * cell.labels):g}%"]
            if cell.model == "semi-vit":
                accuracy += LONGER + (worth if cell.control is None else 0)
            logits = middle + np.interp(accuracy, means, shifts)
            right = trained(draw, logits, labels, difficulty, seeds, SCATTER)
            found[cell.name] = predicted(right, labels, classes)
        answered = answer(grid.results(labels, found, classes))
        (claim,) = (claim for claim in answered.claims if "beyond compute" in claim.text)
        (headline,) = answered.headlines
        held += claim.verdict == "held"
        enough += headline.verdict == "enough"
    return held / times, enough / times
