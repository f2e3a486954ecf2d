"""The parameters of ``builtin://patterns``, the content of its images, and the crowd's answers.

The images resemble the paper's products: classes have from a third of the images to under 1 %, one
of four marketplaces is rare, and products have several images. Images come in blocks of 250 with
equal class counts. The content of an image depends only on (``VERSION``, seed, number).

The crowd is fifteen workers, good, poor and careless; no person was asked. The error rate of an
answer depends on the worker and on the difficulty of the image, and wrong answers are classes that
look alike. The workers of an image and their answers depend only on (``VERSION``, seed, number);
the choice of gold tasks depends on their number too.
"""

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from semigrid.data.errors import InputError

# raise this number when a seed and number give another image or other answers
VERSION = 2
URI = "builtin://patterns"
LICENSE = "CC0 1.0 (generated images and answers)"
BLOCK = 250
# images of each class in a block: from 35 % of them down to 0.8 %
CLASSES = {"animal": 12, "chevron": 5, "dots": 30, "floral": 25, "geometric": 10, "other": 20}
CLASSES |= {"paisley": 2, "plaid": 15, "plain": 88, "stripes": 43}
MARKETPLACES = {"north": 0.52, "south": 0.25, "east": 0.20, "islands": 0.03}
SMALLEST, LARGEST = 500, 10_000_000  # images: enough of the rarest class; seven digits in an id
MOST_GOLD = 100

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

# each purpose of random numbers has a stream of its own
SHOWN, ANSWERED, DESIGN, PHOTOGRAPH = range(4)


@dataclass(frozen=True)
class Patterns:
    """Parameters: ``images`` of ``size`` × ``size`` pixels, the first ``answered`` with answers."""

    images: int = 4000
    answered: int = 1600
    size: int = 64
    seed: int = 0

    @property
    def uri(self) -> str:
        """The canonical URI of these images, with every parameter."""
        return f"{URI}?" + "&".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @property
    def gold_numbers(self) -> list[int]:
        """Numbers of the gold tasks: a tenth of the answered images, at most 100, evenly spread."""
        gold = min(MOST_GOLD, self.answered // 10)
        return [place * self.answered // gold for place in range(gold)]

    @property
    def pool_unit(self) -> int | None:
        """A quarter of the images whose products have no answers; None if there is no such image.

        The multipliers 100 % to 400 % then exist, however many images get no label.
        """
        index, place = divmod(self.answered - 1, BLOCK)
        products = block(self.seed, index).products  # a product stays within its block
        beside = int((products[place + 1 :] == products[place]).sum())
        return max(0, self.images - self.answered - beside) // 4 or None

    @property
    def source(self) -> str:
        """The origin of the images, for the manifest."""
        return f"{self.uri}: generated images and generated crowd answers, version {VERSION}"


def parse_patterns(uri: str) -> Patterns:
    """Reads the parameters of ``builtin://patterns?images=4000&answered=1600&size=64&seed=0``.

    By default two fifths of the images are answered, but at least 500. Raises ``InputError`` with
    all problems, each with the parameter and its allowed values.
    """
    base, _, query = uri.partition("?")
    if base != URI:
        raise InputError(
            f"{uri}: not generated patterns; give {Patterns().uri}, where every parameter is "
            "optional. Other built-in datasets are ready and need no building"
        )
    texts = dict(parse_qsl(query, keep_blank_values=True))
    # −1 is outside every range
    values = {n: int(t) if re.fullmatch(r"[0-9]{1,12}", t) else -1 for n, t in texts.items()}
    images = values.get("images", Patterns.images)
    allowed = {"images": (SMALLEST, LARGEST), "answered": (SMALLEST, images)}
    allowed |= {"size": (8, 1024), "seed": (0, 2**31 - 1)}
    problems = []
    for name, text in texts.items():
        if name not in allowed:
            problems.append(f"{uri}: no parameter {name!r}; there are {', '.join(allowed)}")
        elif not allowed[name][0] <= values[name] <= allowed[name][1]:
            low, high = allowed[name]
            problems.append(
                f"{uri}: {name} is {text!r}; give a whole number from {low:,} to {high:,}"
            )
    if problems:
        raise InputError(*problems)
    return Patterns(**({"answered": max(SMALLEST, images * 2 // 5)} | values))


def generator(seed: int, number: int, purpose: int) -> np.random.Generator:
    """The random generator for one purpose; it depends on the arguments and ``VERSION``."""
    return np.random.default_rng((VERSION, seed, number, purpose))


@dataclass(frozen=True)
class Block:
    """The contents of a block's images; arrays of shape (BLOCK,).

    ``classes`` and ``marketplaces`` are indices into ``CLASSES`` and ``MARKETPLACES``,
    ``products`` the number of each product's first image, ``difficulty`` is from 0 to 1.
    """

    classes: np.ndarray
    products: np.ndarray
    marketplaces: np.ndarray
    difficulty: np.ndarray


@lru_cache(maxsize=64)
def block(seed: int, index: int) -> Block:
    """The block of ``BLOCK`` images that starts at image ``index * BLOCK``."""
    # only random(): its numbers are the same in every version of NumPy
    rng = generator(seed, index, SHOWN)
    sizes: list[int] = []
    classes: list[int] = []
    for number, images in enumerate(CLASSES.values()):
        while images > 0:
            sizes.append(min(images, 1 + int(3 * rng.random())))
            classes.append(number)
            images -= sizes[-1]
    order = np.argsort(rng.random(len(sizes)), kind="stable")
    per_product = np.array(sizes)[order]
    # ranks instead of draws, so that every block has the rare marketplace's share
    ranks = np.argsort(rng.random(len(sizes)), kind="stable")
    shares = np.cumsum(list(MARKETPLACES.values()))
    markets = np.searchsorted(shares, (ranks + rng.random()) / len(sizes))
    firsts = index * BLOCK + np.cumsum(per_product) - per_product
    return Block(
        classes=np.repeat(np.array(classes)[order], per_product),
        products=np.repeat(firsts, per_product),
        marketplaces=np.repeat(np.minimum(markets, len(shares) - 1), per_product),
        difficulty=rng.random(BLOCK),
    )


def true_classes(seed: int, images: int) -> list[str]:
    """The true classes of the first ``images`` images, which workers do not know."""
    names = list(CLASSES)
    blocks = [block(seed, index).classes for index in range(-(-images // BLOCK))]
    return [names[index] for index in np.concatenate(blocks)[:images]]


def image_id(number: int) -> str:
    return f"generated-{number:07d}"


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
