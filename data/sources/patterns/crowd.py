"""The generated crowd of ``builtin://patterns``: fifteen workers, good, poor and careless.

No person was asked. Answers are wrong as often as the worker is and the image is hard, and mistake
what looks alike. Who is asked about an image, and what each worker would answer, is a function of
(``VERSION``, seed, number) alone; only which images are gold tasks depends on how many there are.
"""

import numpy as np
import pandas as pd

from semigrid.data.sources.patterns.spec import (
    ANSWERED,
    BLOCK,
    CLASSES,
    Patterns,
    block,
    generator,
    image_id,
    true_classes,
)

QUALIFIED = 11  # the workers who deserve to count: the first ones
# how often each worker is right on an image of middling difficulty; the last one does not look
SKILLS = (*np.linspace(0.95, 0.82, QUALIFIED), 0.62, 0.58, 0.55, 0.0)
WORKERS = tuple(f"worker-{number:02d}" for number in range(1, len(SKILLS) + 1))
CARELESS, CARELESS_ANSWER = len(WORKERS) - 1, "plain"
SHY = 0.35  # images that an unqualified worker takes on, relative to a qualified one
ANSWERS = 3  # to an image
# classes that look alike lie side by side in this circle; a wrong answer is a neighbour
ALIKE = ["plain", "other", "animal", "dots", "floral"]
ALIKE += ["paisley", "geometric", "chevron", "stripes", "plaid"]


def gold_of(patterns: Patterns) -> dict[str, str]:
    """True classes of the gold tasks, by image id."""
    truth = true_classes(patterns.seed, patterns.answered)
    return {image_id(number): truth[number] for number in patterns.gold_numbers}


def answers_of(patterns: Patterns) -> pd.DataFrame:
    """The crowd's answers, columns ``task`` (an image id), ``worker``, ``label``; one row each.

    Three workers answer an image; all of them answer a gold task, the three first.
    """
    asked = np.full(patterns.answered, ANSWERS)
    asked[patterns.gold_numbers] = len(WORKERS)
    parts = []
    for first in range(0, patterns.answered, BLOCK):
        workers, labels = _answers(patterns.seed, first // BLOCK)
        places, turns = np.nonzero(np.arange(len(WORKERS)) < asked[first : first + BLOCK, None])
        parts.append((first + places, workers[places, turns], labels[places, turns]))
    numbers, who, what = (np.concatenate(column) for column in zip(*parts, strict=True))
    return pd.DataFrame(
        {
            "task": [image_id(number) for number in numbers],
            "worker": np.array(WORKERS, dtype=object)[who],
            "label": np.array(list(CLASSES), dtype=object)[what],
        }
    )


def _answers(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The workers of each image of a block in the order of asking, and their answers.

    Both have the shape (BLOCK, workers). An image of difficulty d makes each worker err
    0.4 + 1.2 d times as often as usual, so that what is hard for one is hard for all.
    """
    rng, shown = generator(seed, index, ANSWERED), block(seed, index)
    shape = BLOCK, len(WORKERS)
    # the first of these are a sample without replacement, weighted by how much a worker takes on
    weights = np.where(np.arange(len(WORKERS)) < QUALIFIED, 1, SHY)
    workers = np.argsort(-np.log1p(-rng.random(shape)) / weights, axis=1, kind="stable")
    errors = (1 - np.array(SKILLS)) * (0.4 + 1.2 * shown.difficulty[:, None])
    wrong = rng.random(shape) < errors
    names = list(CLASSES)
    circle = np.array([names.index(name) for name in ALIKE])
    place = np.argsort(circle)[shown.classes][:, None] + np.where(rng.random(shape) < 0.5, 1, -1)
    labels = np.where(wrong, circle[place % len(circle)], shown.classes[:, None])
    labels[:, CARELESS] = names.index(CARELESS_ANSWER)
    return workers, np.take_along_axis(labels, workers, axis=1)
