"""The generated crowd of ``builtin://patterns``: fifteen workers, good, poor and careless.

No person was asked. Answers are wrong as often as the worker is and the image is hard, and mistake
what looks alike. Who is asked about an image, and what each worker would answer, is a function of
(``VERSION``, seed, number) alone; only which images are gold tasks depends on how many there are.
"""

import numpy as np
import pandas as pd

from semigrid.data.sources.patterns import (
    ANSWERED,
    BLOCK,
    CLASSES,
    Patterns,
    block,
    generator,
    image_id,
    true_classes,
)

# how often each worker is right on an image of middling difficulty; the last one does not look
SKILLS = (
    *(0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.89, 0.88, 0.86, 0.84, 0.82),
    *(0.62, 0.58, 0.55),
    0.0,
)
WORKERS = tuple(f"worker-{number:02d}" for number in range(1, len(SKILLS) + 1))
CARELESS, CARELESS_ANSWER = len(WORKERS) - 1, "plain"
QUALIFIED = 11  # the workers who deserve to count: the first ones
# a worker of those who do not deserve it takes on fewer images, relative to one who does
SHY = 0.35
ANSWERS = 3  # to an image
# what a wrong answer is, by the true class, in relative numbers
CONFUSED: dict[str, dict[str, int]] = {
    "animal": {"other": 5, "dots": 2, "stripes": 2, "floral": 1},
    "chevron": {"stripes": 5, "geometric": 3, "plaid": 2},
    "dots": {"geometric": 3, "floral": 3, "animal": 2, "other": 2},
    "floral": {"paisley": 3, "other": 3, "dots": 2, "animal": 2},
    "geometric": {"chevron": 3, "plaid": 3, "other": 3, "dots": 1},
    "other": {"plain": 3, "animal": 3, "geometric": 2, "floral": 2},
    "paisley": {"floral": 6, "other": 3, "animal": 1},
    "plaid": {"stripes": 5, "geometric": 3, "chevron": 1, "other": 1},
    "plain": {"other": 6, "stripes": 2, "dots": 2},
    "stripes": {"plaid": 4, "chevron": 4, "geometric": 1, "plain": 1},
}


def gold_of(patterns: Patterns) -> dict[str, str]:
    """True classes of the gold tasks, by image id: images spread over those that are answered."""
    truth = true_classes(patterns.seed, patterns.answered)
    return {image_id(number): truth[number] for number in _gold_numbers(patterns)}


def _gold_numbers(patterns: Patterns) -> list[int]:
    return [place * patterns.answered // patterns.gold for place in range(patterns.gold)]


def answers_of(patterns: Patterns) -> pd.DataFrame:
    """The crowd's answers, columns ``task`` (an image id), ``worker``, ``label``; one row each.

    Three workers answer an image; all of them answer a gold task, the three first.
    """
    asked = np.full(patterns.answered, ANSWERS)
    asked[_gold_numbers(patterns)] = len(WORKERS)
    parts = []
    for index in range(-(-patterns.answered // BLOCK)):
        workers, labels = _answers(patterns.seed, index)
        of_block = asked[index * BLOCK : (index + 1) * BLOCK]
        numbers, turns = np.nonzero(np.arange(len(WORKERS)) < of_block[:, None])
        parts.append((index * BLOCK + numbers, workers[numbers, turns], labels[numbers, turns]))
    numbers, who, what = (np.concatenate(column) for column in zip(*parts, strict=True))
    tasks = [image_id(number) for number in range(patterns.answered)]
    return pd.DataFrame(
        {
            "task": np.array(tasks, dtype=object)[numbers],
            "worker": np.array(WORKERS, dtype=object)[who],
            "label": np.array(list(CLASSES), dtype=object)[what],
        }
    )


def _answers(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """What all workers would answer to a block: who, in the order of asking, and what.

    Both of shape (BLOCK, workers). An image of difficulty d makes each worker err 0.4 + 1.2 d times
    as often as usual, so that what is hard for one is hard for all.
    """
    rng = generator(seed, index, ANSWERED)
    shown = block(seed, index)
    shape = BLOCK, len(WORKERS)
    # the first of these are a sample without replacement, weighted by how much a worker takes on
    weights = np.where(np.arange(len(WORKERS)) < QUALIFIED, 1, SHY)
    workers = np.argsort(-np.log1p(-rng.random(shape)) / weights, axis=1, kind="stable")
    errors = (1 - np.array(SKILLS)) * (0.4 + 1.2 * shown.difficulty[:, None])
    wrong = rng.random(shape) < errors
    draws = rng.random(shape)[..., None]
    mistaken = (draws >= _mistakes()[shown.classes][:, None, :]).sum(axis=2)
    labels = np.where(wrong, mistaken, shown.classes[:, None])
    labels[:, CARELESS] = list(CLASSES).index(CARELESS_ANSWER)
    return workers, np.take_along_axis(labels, workers, axis=1)


def _mistakes() -> np.ndarray:
    """Probabilities that a wrong answer is a label or one before it, shape (true class, label)."""
    table = np.array([[CONFUSED[true].get(name, 0) for name in CLASSES] for true in CLASSES])
    reached = np.cumsum(table, axis=1) / table.sum(axis=1, keepdims=True)
    return np.asarray(reached)
