"""The generated crowd of ``builtin://patterns``: fifteen workers, good, poor and careless.

No person was asked. The error rate of an answer depends on the worker and on the difficulty of the
image, and wrong answers are classes that look alike. The workers of an image and their answers
depend only on (``VERSION``, seed, number); the choice of gold tasks depends on their number too.
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

QUALIFIED = 11  # the first workers are the good ones
# share of right answers of each worker on images of average difficulty; the last never looks
SKILLS = (*np.linspace(0.95, 0.82, QUALIFIED), 0.62, 0.58, 0.55, 0.0)
WORKERS = tuple(f"worker-{number:02d}" for number in range(1, len(SKILLS) + 1))
CARELESS, CARELESS_ANSWER = len(WORKERS) - 1, "plain"
SHY = 0.35  # images that an unqualified worker answers, relative to a qualified one
ANSWERS = 3  # per image
# neighbours in this circle look alike; a wrong answer is a neighbour of the true class
ALIKE = ["plain", "other", "animal", "dots", "floral"]
ALIKE += ["paisley", "geometric", "chevron", "stripes", "plaid"]


def gold_of(patterns: Patterns) -> dict[str, str]:
    """True classes of the gold tasks, by image id."""
    truth = true_classes(patterns.seed, patterns.answered)
    return {image_id(number): truth[number] for number in patterns.gold_numbers}


def answers_of(patterns: Patterns) -> pd.DataFrame:
    """The crowd's answers, a row each, with columns ``task`` (an image id), ``worker``, ``label``.

    Three workers answer each image. All other workers answer the gold tasks after those three.
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
    """The workers of each image of a block in the order of their answers, and the answers.

    Both have the shape (BLOCK, workers). Difficulty d multiplies the error rate of every worker by
    0.4 + 1.2 d, so that an image that is hard for one worker is hard for all.
    """
    rng, shown = generator(seed, index, ANSWERED), block(seed, index)
    shape = BLOCK, len(WORKERS)
    # a weighted order, whose first workers are a sample without replacement
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
