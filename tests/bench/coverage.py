"""How often the intervals hold the truth, and how often equal cells are told apart.

Made-up test sets of 20 classes, whose accuracies lie between 30 and 98 % and are lower for rare
classes; images of all difficulties; trainings that scatter, as a whole and class by class. The
truth, over all images and all trainings, is computed by quadrature.
"""

from collections.abc import Iterator

import numpy as np

from semigrid.grid.analysis.statistics import Weighted, accuracy_interval, compare

EXPERIMENTS = 1000
DIFFICULTY, LUCK = 1.5, 0.7  # standard deviations, in logits, of images and of image and training

# of a quadrature over the normal distribution
POINTS, CHANCES = np.polynomial.hermite_e.hermegauss(80)
CHANCES = CHANCES / CHANCES.sum()

# images of each class: what a rare class can spare, and everyone's number
TEST_SETS = {
    "20 classes of 50": [50] * 20,
    "15 of 50 to 100, 5 of 5 to 17": [50, 60, 70, 80, 100] * 3 + [5, 8, 11, 14, 17],
    "14 of 75, 6 of 1 to 9": [75] * 14 + [1, 1, 2, 3, 5, 9],
}


def coverage() -> Iterator[tuple[str, str, str]]:
    """Rows of a table: what, found, goal."""
    for name, images in TEST_SETS.items():
        for metric in ("balanced", "natural"):
            for seeds, scatter in ((1, 0.0), (2, 0.15), (3, 0.15), (4, 0.3)):
                held, apart = experiment(images, metric, seeds, scatter, EXPERIMENTS)
                what = f"{metric}, {name}, {seeds} seed{'s' if seeds > 1 else ''}"
                yield f"{what}: intervals that hold the truth", f"{held:.1%}", "92 to 98 %"
                yield f"{what}: equal cells told apart", f"{apart:.1%}", "at most 6 %"


def experiment(
    images: list[int], metric: str, seeds: int, scatter: float, times: int
) -> tuple[float, float]:
    """Shares of intervals that hold the truth, and of equal cells that are told apart at 5 %."""
    draw = np.random.default_rng([len(images), images[-1], metric == "natural", seeds])
    classes = len(images)
    labels = np.repeat(np.arange(classes), images)
    shares = np.sort(draw.dirichlet(np.ones(classes)))[::-1]  # the rarest have the fewest images
    accuracies = np.linspace(0.98, 0.3, classes)
    logits = np.array([logit_with(accuracy, scatter) for accuracy in accuracies])
    weights = np.ones(classes) if metric == "balanced" else shares
    truth = float(accuracies @ weights / weights.sum())
    held = apart = 0
    for _ in range(times):
        difficulty = draw.normal(0, DIFFICULTY, len(labels))

        first, second = (
            Weighted(trained(draw, logits, labels, difficulty, seeds, scatter), labels, weights)
            for _ in range(2)
        )
        interval = accuracy_interval(first)
        held += interval.low <= truth <= interval.high
        apart += compare(first, second).p < 0.05
    return held / times, apart / times


def trained(
    draw: np.random.Generator,
    logits: np.ndarray,
    labels: np.ndarray,
    difficulty: np.ndarray,
    seeds: int,
    scatter: float,
) -> np.ndarray:
    """Which images each of a cell's trainings puts into their class, (S, N).

    Args:
        logits: mean logit of each class, (K,).
        labels, difficulty: class of each image, and how hard it is, (N,).
        scatter: standard deviation of trainings, as a whole and class by class.
    """
    shape = (seeds, len(labels))
    of_seeds = draw.normal(0, scatter, (seeds, 1))
    of_classes = draw.normal(0, scatter, (seeds, len(logits)))[:, labels]
    z = logits[labels] - difficulty + draw.normal(0, LUCK, shape) + of_seeds + of_classes
    return np.asarray(draw.random(shape) < 1 / (1 + np.exp(-z)))


def logit_with(accuracy: float, scatter: float) -> float:
    """The mean logit of a class with this accuracy over all images and trainings."""
    logits = np.linspace(-6, 14, 4001)
    return float(np.interp(accuracy, accuracies_at(logits, scatter), logits))


def accuracies_at(logits: np.ndarray, scatter: float) -> np.ndarray:
    """The accuracies over all images and trainings of classes with these mean logits, (K,)."""
    spread = (DIFFICULTY**2 + LUCK**2 + 2 * scatter**2) ** 0.5
    found = (CHANCES / (1 + np.exp(-logits[:, None] - spread * POINTS))).sum(axis=1)
    return np.asarray(found)
