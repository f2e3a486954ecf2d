"""How often a grid says that its unlabelled images help, where they do and where they do not.

Whole made-up grids go through ``answer``: a baseline on four label fractions, a semi-supervised
model and its compute control. In one world the pool is worthless: longer training gives both 5
points over the baseline. In the other the pool is worth 3 points on top of these. Images are of
all difficulties, alike for all cells; trainings scatter as in ``coverage``, and with lucky searches
each cell's winner is by that much better or worse than its recipe's mean. Val is as small as most.
"""

from collections.abc import Iterator

import numpy as np
from tests.bench.coverage import DIFFICULTY, accuracies_at, logit_with, trained
from tests.helpers.made_up import MadeUpGrid, predicted

from semigrid.grid.analysis.answer import MARGIN, answer
from semigrid.grid.experiment.schema import show_percent

GRIDS = 300
SCATTER = 0.15  # in logits: two points of accuracy or so
LONGER, WORTH = 0.05, 0.03
VAL = 150  # images that say which of two models of labels alone counts
# the baseline's accuracy by label fraction, a mean over classes
BASELINE = {"25%": 0.60, "50%": 0.65, "75%": 0.68, "100%": 0.70}
UNEVEN = {"25%": 0.05, "50%": 0.05, "75%": 0.1, "100%": 0.6}  # as when one recipe is too hot
EVEN = dict.fromkeys(BASELINE, SCATTER)
# name, classes, test images of each, seeds, scatter by label fraction, luck of each cell's search
SHAPES = [
    ("1,000 test images, 4 fractions, 3 seeds", 20, 50, 3, EVEN, 0.0),
    ("1,000 test images, 4 fractions, 3 uneven seeds", 20, 50, 3, UNEVEN, 0.0),
    ("1,000 test images, 4 fractions, 3 seeds, lucky searches", 20, 50, 3, EVEN, SCATTER),
    ("1,000 test images, 4 fractions, 1 seed", 20, 50, 1, EVEN, 0.0),
    ("1,000 test images, 1 fraction, 3 seeds", 20, 50, 3, {"25%": SCATTER}, 0.0),
    ("1,000 test images, 1 fraction, 1 seed", 20, 50, 1, {"25%": SCATTER}, 0.0),
    ("200 test images, 4 fractions, 3 seeds", 10, 20, 3, EVEN, 0.0),
]


def worth() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    for what, classes, images, seeds, scatter, luck in SHAPES:
        sure = "at most 5 %" if seeds > 1 else ""  # one seed speaks of the trained models only
        held, wrong = grids(classes, images, seeds, scatter, luck, 0.0, GRIDS)
        yield f"{what}, worthless pool: said to help", f"{held:.1%}", "at most 5 %"
        yield f"{what}, worthless pool: wrong about enough", f"{wrong:.1%}", sure
        held, wrong = grids(classes, images, seeds, scatter, luck, WORTH, GRIDS)
        goal = "at least 80 %" if what == SHAPES[0][0] else ""
        yield f"{what}, pool worth 3 points: said to help", f"{held:.1%}", goal
        yield f"{what}, pool worth 3 points: wrong about enough", f"{wrong:.1%}", sure


def grids(
    classes: int,
    images: int,
    seeds: int,
    scatter: dict[str, float],
    luck: float,
    worth: float,
    times: int,
) -> tuple[float, float]:
    """Shares of grids that say the pool helps, and that are wrong about enough labels.

    Wrong are those that call labels enough with which more than a point is lost, and those that
    call none enough though some are.
    """
    fractions = list(scatter)
    draw = np.random.default_rng([classes, images, len(fractions), seeds, int(1000 * worth)])
    grid = MadeUpGrid(
        grid=[{"model": model, "labels": fractions} for model in ("vit", "semi-vit")],
        controls=["compute"],
        seeds=seeds,
    )
    labels = np.repeat(np.arange(classes), images)
    curves = {at: accuracy_curve(classes, at) for at in set(scatter.values())}
    lost = {
        fraction: BASELINE[fractions[-1]] - BASELINE[fraction] - worth
        for fraction in fractions[:-1]
    }
    held = wrong = 0
    for _ in range(times):
        difficulty = draw.normal(0, DIFFICULTY, len(labels))
        found, val = {}, {}
        for cell in grid.plan.cells:
            fraction = show_percent(cell.labels)
            accuracy = BASELINE[fraction]
            if cell.model == "semi-vit":
                accuracy += LONGER + (worth if cell.control is None else 0)
            middle, means = curves[scatter[fraction]]
            logits = middle + np.interp(accuracy, means, SHIFTS)
            logits = logits + draw.normal(0, luck)
            right = trained(draw, logits, labels, difficulty, seeds, scatter[fraction])
            found[cell.name] = predicted(right, labels, classes)
            val[cell.name] = 100 * draw.binomial(VAL, accuracy) / VAL
        answered = answer(grid.results(labels, found, classes, val=val))
        (claim,) = (claim for claim in answered.claims if "beyond compute" in claim.text)
        (headline,) = answered.headlines
        held += claim.verdict == "held"
        if headline.verdict == "enough" and headline.saving is not None:
            wrong += lost[show_percent(headline.saving.row.cell.labels)] > MARGIN
        elif headline.verdict == "not enough":
            wrong += min(lost.values()) <= MARGIN
    return held / times, wrong / times


SHIFTS = np.linspace(-3, 4, 701)


def accuracy_curve(classes: int, scatter: float) -> tuple[np.ndarray, list[float]]:
    """Mean logits of classes that differ, (K,), and their mean accuracy at each of ``SHIFTS``."""
    middle = np.array([logit_with(each, scatter) for each in np.linspace(0.9, 0.3, classes)])
    return middle, [float(accuracies_at(middle + shift, scatter).mean()) for shift in SHIFTS]
