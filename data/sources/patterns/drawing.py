"""Draws the images of ``builtin://patterns``: a product with its pattern before a wall.

A product (its form, colours and pattern) is a function of its first image's number, and the
photograph of it of the image's own. Pixels may differ in the last bit, and JPEG bytes altogether,
between machines: nothing that must be equal is taken from them.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from semigrid.data.sources.patterns.spec import (
    BLOCK,
    CLASSES,
    DESIGN,
    MARKETPLACES,
    PHOTOGRAPH,
    block,
    generator,
)

QUALITY = 90
# light of a marketplace's photographs by red, green and blue, and the brightness of the wall
LIGHT = {
    "north": ((0.88, 0.98, 1.08), 0.90),
    "south": ((1.12, 1.00, 0.82), 0.94),
    "east": ((1.06, 1.06, 1.06), 1.00),
    "islands": ((0.78, 0.92, 0.84), 0.60),
}
# takes coordinates in periods of the pattern, of shape (H, W), and a product's random numbers;
# returns how far inside the ink each point lies, in periods, negative outside
Motif = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def draw(seed: int, number: int, size: int) -> bytes:
    """The JPEG of an image, ``size`` pixels a side."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, number, size)).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def pixels(seed: int, number: int, size: int) -> np.ndarray:
    """The pixels of an image, uint8 of shape (size, size, 3)."""
    shown, place = block(seed, number // BLOCK), number % BLOCK
    motif = MOTIFS[list(CLASSES)[shown.classes[place]]]
    gains, wall = LIGHT[list(MARKETPLACES)[shown.marketplaces[place]]]
    difficulty = float(shown.difficulty[place])
    design = generator(seed, int(shown.products[place]), DESIGN)
    photo = generator(seed, number, PHOTOGRAPH)

    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = _turned(*np.meshgrid(line, line), photo.uniform(-0.2, 0.2), photo.uniform(0.9, 1.1))
    # the width of an edge: a hard image is out of focus, and its colours are near to each other
    soft = (0.8 + 0.03 * size * difficulty * photo.random()) / size
    cloth = design.uniform(0.1, 0.9, 3)
    away = np.where(cloth.mean() < 0.5, 1, -1) * design.uniform(0.2, 0.7, 3)
    ink = np.clip(cloth + (1 - 0.6 * difficulty) * away, 0, 1)
    width, height = design.uniform(0.25, 0.42, 2)
    form = _cover(np.minimum(width - np.abs(x), height - np.abs(y)), soft)
    period = 1 / design.uniform(4, 9)
    u, v = _turned(x, y, design.normal(0, 0.4), period)
    cover = _cover(motif(u + photo.random(), v + photo.random(), design), soft / period)
    product = cloth + cover[..., None] * (ink - cloth)
    shade = 1 + photo.uniform(-0.5, 0.5) * x + photo.uniform(-0.5, 0.5) * y
    image = wall + form[..., None] * (product * shade[..., None] - wall)
    image = image * np.array(gains) * photo.uniform(0.9, 1.05)
    image += photo.uniform(0.01, 0.05) * photo.standard_normal((size, size, 1))
    return np.asarray(np.clip(image, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _turned(
    x: np.ndarray, y: np.ndarray, angle: float, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a system turned by an angle, with another unit of length."""
    c, s = np.cos(angle) / unit, np.sin(angle) / unit
    return c * x + s * y, c * y - s * x


def _cover(distance: np.ndarray, soft: float) -> np.ndarray:
    """Coverage, 0 to 1, by a shape whose edge is where ``distance`` is 0, positive inside."""
    return np.clip(distance / soft + 0.5, 0, 1)


def _off(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.asarray(np.abs(x - np.rint(x)))


def _cell(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates within unit cells, −0.5 to 0.5; every second row is moved by half a cell."""
    row = np.rint(y)
    x = x + 0.5 * (row % 2)
    return x - np.rint(x), y - row


def _waves(x: np.ndarray, y: np.ndarray, design: np.random.Generator) -> np.ndarray:
    """A smooth irregular field, about −1 to 1, with features of about one period."""
    a, b, phase = design.normal(0, 0.7, 5), design.normal(0, 0.7, 5), design.random(5)
    return np.asarray(
        np.mean([np.sin(6.28 * (a[k] * x + b[k] * y + phase[k])) for k in range(5)], axis=0) * 1.5
    )


def _petals(u: np.ndarray, v: np.ndarray, count: int) -> np.ndarray:
    """Distance into a blossom whose petals reach half a cell."""
    petals = np.abs(np.cos(count / 2 * np.arctan2(v, u)))
    return np.asarray(0.42 * (0.35 + 0.65 * petals) - np.hypot(u, v))


def _drop(u: np.ndarray, v: np.ndarray, bend: float) -> np.ndarray:
    """Distance into the rim of a bent drop."""
    u = u + bend * (v + 0.3) ** 2 - 0.1
    drop = 0.26 - np.hypot(u / np.clip(0.9 - v, 0.3, 1.4), 0.7 * v)
    return np.asarray(0.07 - np.abs(drop - 0.05))


def _nested(u: np.ndarray, v: np.ndarray, diamonds: bool) -> np.ndarray:
    """Distance into the lines of nested squares or diamonds."""
    u, v = np.abs(u), np.abs(v)
    shape = 0.7 * (u + v) if diamonds else np.maximum(u, v)
    return np.asarray(0.09 - np.abs(_off(2 * shape) - 0.25))


def _skin(x: np.ndarray, waves: np.ndarray, spotted: bool) -> np.ndarray:
    """Distance into a leopard's rings or a zebra's stripes."""
    return 0.2 - np.abs(np.abs(waves) - 0.4) if spotted else 0.25 - _off(x + 0.6 * waves)


MOTIFS: dict[str, Motif] = {
    "animal": lambda x, y, rng: _skin(x, _waves(x, y, rng), rng.random() < 0.5),
    "chevron": lambda x, y, rng: (
        rng.uniform(0.18, 0.3) - _off(y + rng.uniform(1.8, 3) * _off(x / 2))
    ),
    "dots": lambda x, y, rng: rng.uniform(0.2, 0.38) - np.hypot(*_cell(x, y)),
    "floral": lambda x, y, rng: _petals(*_cell(0.7 * x, 0.7 * y), int(rng.integers(5, 8))),
    "geometric": lambda x, y, rng: _nested(x - np.rint(x), y - np.rint(y), rng.random() < 0.5),
    # large irregular patches
    "other": lambda x, y, rng: _waves(0.3 * x, 0.3 * y, rng),
    "paisley": lambda x, y, rng: _drop(*_cell(0.5 * x, 0.5 * y), rng.uniform(0.6, 1.2)),
    "plaid": lambda x, y, rng: rng.uniform(0.12, 0.25) - np.minimum(_off(x), _off(y)),
    "plain": lambda x, y, rng: np.full_like(x, -1),
    "stripes": lambda x, y, rng: rng.uniform(0.12, 0.35) - _off(x if rng.random() < 0.5 else y),
}
