"""``builtin://patterns``: its parameters, and what each of the generated images shows.

Products with a pattern, as the paper has them: classes from a third of the images to under 1 %,
four marketplaces of which one is scarce, several images of a product, three workers an image.
None of it is real: the images are generated, and so are the answers.

Images come in blocks of 250 with the same counts of every class, and within a block the products
of a class are spread evenly: any run of images has the classes in nearly their shares. What an
image shows is a function of (``VERSION``, seed, number) alone.
"""

import re
from collections import Counter
from dataclasses import dataclass, fields
from functools import lru_cache
from urllib.parse import parse_qsl

import numpy as np

from semigrid.data.errors import InputError

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
GOLD = 100  # gold tasks at most

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
        """How many of the answered images are gold tasks: a tenth of them, up to a hundred."""
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
