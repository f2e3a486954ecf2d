"""The images of ``builtin://patterns``, drawn when they are read: a product in front of a wall.

The product's shape, colours and pattern depend on the number of its first image, and the photograph
on the image's own number. Between machines pixels may differ in the last bit and JPEG bytes
completely, so nothing that must be equal everywhere depends on them.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from semigrid.data.sources.items import Inside, Item
from semigrid.data.sources.patterns.spec import (
    BLOCK,
    CLASSES,
    DESIGN,
    MARKETPLACES,
    PHOTOGRAPH,
    URI,
    VERSION,
    Patterns,
    block,
    generator,
    image_id,
)

QUALITY = 90
# gains of red, green and blue in the photographs of a marketplace, and the wall's brightness
LIGHT = {
    "north": ((0.88, 0.98, 1.08), 0.90),
    "south": ((1.12, 1.00, 0.82), 0.94),
    "east": ((1.06, 1.06, 1.06), 1.00),
    "islands": ((0.78, 0.92, 0.84), 0.60),
}
# maps coordinates (H, W) in periods of the pattern, with a product's random numbers, to the
# distance of each point to the edge of the ink in periods, negative outside the ink
Motif = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class GeneratedImage(Inside):
    """An image without a file; reading it draws it."""

    seed: int
    number: int
    size: int

    @property
    def identity(self) -> str:  # the bytes depend on the machine's encoder
        return f"{URI} version {VERSION} seed {self.seed} size {self.size} image {self.number}"

    def read(self, uri: str) -> bytes:
        return draw(self.seed, self.number, self.size)


def pattern_items(patterns: Patterns) -> list[Item]:
    """Lists all images, grouped by product and without labels."""
    markets, items = list(MARKETPLACES), []
    for number in range(patterns.images):
        shown, place = block(patterns.seed, number // BLOCK), number % BLOCK
        items.append(
            Item(
                image_id(number),
                patterns.uri,
                group=f"product-{shown.products[place]:07d}",
                slices={"marketplace": markets[shown.marketplaces[place]]},
                inside=GeneratedImage(patterns.seed, number, patterns.size),
            )
        )
    return items


def draw(seed: int, number: int, size: int) -> bytes:
    """Draws an image as a JPEG of ``size`` × ``size`` pixels."""
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
    # width of an edge: hard images are out of focus and have similar colours
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
    """Coordinates in a system rotated by an angle, with another unit of length."""
    c, s = np.cos(angle) / unit, np.sin(angle) / unit
    return c * x + s * y, c * y - s * x


def _cover(distance: np.ndarray, soft: float) -> np.ndarray:
    """Coverage, 0 to 1, by a shape whose edge is where ``distance`` is 0, positive inside."""
    return np.clip(distance / soft + 0.5, 0, 1)


def _off(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.asarray(np.abs(x - np.rint(x)))


def _cell(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates within unit cells, −0.5 to 0.5; every second row is shifted by half a cell."""
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
    """Distance into a blossom with petals as long as half a cell."""
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
