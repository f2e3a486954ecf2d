"""``builtin://patterns``: what the generated images show, and what a generated crowd says of them.

Products with a pattern, as the paper has them: classes from a third of the images to under 1 %,
four marketplaces of which one is scarce, several images of a product, three workers an image.
None of it is real: the images are drawn, and the answers are drawn too.

Images come in blocks of 250 with the same counts of every class, and within a block the products
of a class are spread evenly: any run of images has all classes in their shares. What an image
shows, and what each worker would answer, is a function of (``VERSION``, seed, number) alone.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from data.errors import InputError

# The same seed and number give the same image and answers for as long as this number stays.
VERSION = 1
URI = "builtin://patterns"
BLOCK = 250
# images of each class in a block: from 35 % of them down to 0.8 %
CLASSES = {
    "animal": 12,
    "chevron": 5,
    "dots": 30,
    "floral": 25,
    "geometric": 10,
    "other": 20,
    "paisley": 2,
    "plaid": 15,
    "plain": 88,
    "stripes": 43,
}
MARKETPLACES = {"north": 0.52, "south": 0.25, "east": 0.20, "islands": 0.03}

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
ANSWERS, GOLD = 3, 100  # answers to an image, gold tasks at most
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

# what a generator is for: with the version, the seed and a number it makes its own stream
SHOWN, ANSWERED, DESIGN, VIEW = range(4)


@dataclass(frozen=True)
class Patterns:
    """So many images of so many pixels a side; the first ``answered`` have crowd answers."""

    images: int = 4000
    answered: int = 1600
    size: int = 64
    seed: int = 0

    @property
    def uri(self) -> str:
        """The one URI of these images, with every parameter."""
        return f"{URI}?" + "&".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @property
    def gold(self) -> int:
        """How many of the answered images are gold tasks: a tenth, a hundred at most."""
        return min(GOLD, self.answered // 10)

    @property
    def pool_unit(self) -> int | None:
        """A quarter of the images whose products nobody was asked about, None without such.

        So the multipliers 100 % to 400 % exist, whatever the consensus leaves to the pool.
        """
        index, place = divmod(self.answered - 1, BLOCK)
        products = block(self.seed, index).products  # a product stays within its block
        beside = int((products[place + 1 :] == products[place]).sum())
        return max(0, self.images - self.answered - beside) // 4 or None

    @property
    def source(self) -> str:
        """Where the images are from, for the manifest."""
        return f"{self.uri}: generated images and generated crowd answers, version {VERSION}"


LICENSE = "CC0 1.0 (generated images and answers)"
SMALLEST, LARGEST = 500, 10_000_000  # images: enough of the rarest class; seven digits in an id


def parse_patterns(uri: str) -> Patterns:
    """The parameters of ``builtin://patterns?images=4000&answered=1600&size=64&seed=0``.

    By default two fifths of the images are answered, or 500. Raises ``InputError`` with every
    problem, each naming the parameter and what is allowed.
    """
    base, _, query = uri.partition("?")
    if base != URI:
        raise InputError(
            f"{uri}: no generated patterns; those are {Patterns().uri}, where any parameter may be "
            "left out. Other built-in datasets are datasets already and need no building"
        )
    names = [field.name for field in fields(Patterns)]
    query_values = parse_qsl(query, keep_blank_values=True)
    given = {name: _whole_number(value) for name, value in query_values}
    images = given.get("images", Patterns.images)
    allowed = {
        "images": (SMALLEST, LARGEST),
        "answered": (SMALLEST, images),
        "size": (8, 1024),
        "seed": (0, 2**31 - 1),
    }
    problems = []
    for name, value in query_values:
        if name not in names:
            problems.append(f"no parameter {name!r}; there are {', '.join(names)}")
        elif not allowed[name][0] <= _whole_number(value) <= allowed[name][1]:
            low, high = allowed[name]
            problems.append(f"{name} is {value!r}; give a whole number from {low:,} to {high:,}")
    problems += [
        f"{name} is given {count} times; give it once"
        for name, count in Counter(name for name, _ in query_values).items()
        if count > 1
    ]
    if problems:
        raise InputError(*(f"{uri}: {problem}" for problem in problems))
    return Patterns(**({"answered": max(SMALLEST, images * 2 // 5)} | given))


def _whole_number(value: str) -> int:
    """The number, or −1, which is outside every range."""
    return int(value) if re.fullmatch(r"[0-9]{1,12}", value) else -1


def image_id(number: int) -> str:
    return f"generated-{number:07d}"


def generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """The random numbers for one purpose: a function of its arguments and of ``VERSION``."""
    return np.random.default_rng((VERSION, seed, number, purpose))


@dataclass(frozen=True)
class Block:
    """What the images of a block show; arrays of shape (BLOCK,).

    ``classes`` and ``marketplaces`` are indices into ``CLASSES`` and ``MARKETPLACES``,
    ``products`` the number of each product's first image, ``difficulty`` is from 0 to 1.
    """

    classes: np.ndarray
    products: np.ndarray
    marketplaces: np.ndarray
    difficulty: np.ndarray


@lru_cache(maxsize=64)
def block(seed: int, index: int) -> Block:
    """The block of the images ``index * BLOCK`` and following."""
    # random() alone: its numbers are the same with every version of numpy
    rng = generator(seed, index, SHOWN)
    sizes, classes, places = [], [], []
    for number, images in enumerate(CLASSES.values()):
        of_class = _product_sizes(images, rng)
        sizes += of_class
        classes += [number] * len(of_class)
        places.append((np.arange(len(of_class)) + rng.random(len(of_class))) / len(of_class))
    order = np.argsort(np.concatenate(places), kind="stable")
    per_product = np.array(sizes)[order]
    shares = np.cumsum(list(MARKETPLACES.values()))
    # ranks, not draws: the scarce marketplace has its share in every block
    ranks = np.argsort(rng.random(len(order)), kind="stable")
    markets = np.searchsorted(shares, (ranks + rng.random()) / len(order))
    firsts = index * BLOCK + np.cumsum(per_product) - per_product
    return Block(
        classes=np.repeat(np.array(classes)[order], per_product),
        products=np.repeat(firsts, per_product),
        marketplaces=np.repeat(np.minimum(markets, len(shares) - 1), per_product),
        difficulty=rng.random(BLOCK),
    )


def _product_sizes(images: int, rng: np.random.Generator) -> list[int]:
    """One to three images a product, as many as there are."""
    sizes: list[int] = []
    while images > 0:
        sizes.append(min(images, 1 + int(3 * rng.random())))
        images -= sizes[-1]
    return sizes


def _blocks(seed: int, images: int) -> list[Block]:
    return [block(seed, index) for index in range(-(-images // BLOCK))]


def true_classes(seed: int, images: int) -> list[str]:
    """The class of each of the first images, which no worker is told."""
    names = list(CLASSES)
    found = np.concatenate([of.classes for of in _blocks(seed, images)])[:images]
    return [names[index] for index in found]


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
    return pd.DataFrame(
        {
            "task": np.array([image_id(n) for n in range(patterns.answered)], dtype=object)[
                numbers
            ],
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
    reached = np.cumsum(_confusion(CONFUSED), axis=1)[shown.classes]
    mistaken = (rng.random(shape)[..., None] >= reached[:, None, :]).sum(axis=2)
    labels = np.where(wrong, mistaken, shown.classes[:, None])
    labels[:, CARELESS] = list(CLASSES).index(CARELESS_ANSWER)
    return workers, np.take_along_axis(labels, workers, axis=1)


def _confusion(confused: Mapping[str, Mapping[str, int]]) -> np.ndarray:
    """Probabilities of a wrong answer, shape (true class, answer); rows sum to 1."""
    table = np.array([[confused[true].get(name, 0) for name in CLASSES] for true in CLASSES])
    return np.asarray(table / table.sum(axis=1, keepdims=True))
