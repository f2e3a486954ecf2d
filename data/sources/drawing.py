"""Draws the images of ``builtin://patterns``: a product, its pattern, the light, the camera.

A product (its form, colours and pattern) is a function of its first image's number, and a view of
it of the image's own; with ``VERSION``, seed and size that is all. Pixels may differ in the last
bit, and JPEG bytes altogether, between machines: nothing that must be equal is taken from them.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from semigrid.data.sources.motifs import MOTIFS
from semigrid.data.sources.patterns import (
    BLOCK,
    CLASSES,
    DESIGN,
    MARKETPLACES,
    VIEW,
    block,
    generator,
)

QUALITY = 90
# periods of each pattern across the image
PERIODS = {
    "animal": (4.5, 8),
    "chevron": (6, 11),
    "dots": (5, 10),
    "floral": (4, 6.5),
    "geometric": (4.5, 9),
    "other": (2.5, 5),
    "paisley": (3, 4.5),
    "plaid": (4, 8),
    "plain": (2, 6),
    "stripes": (6, 12),
}
# how photographs of a marketplace look: light by red, green and blue, strength of colours, and the
# brightness of what lies behind the product
LIGHT = {
    "north": ((0.93, 0.98, 1.06), 0.75, 0.90),
    "south": ((1.08, 1.00, 0.88), 1.20, 0.94),
    "east": ((1.06, 1.06, 1.06), 0.95, 1.00),
    "islands": ((0.80, 0.95, 0.86), 1.30, 0.62),
}
# hues that animals have, as red, green and blue of a light and a dark
FUR = (((0.82, 0.66, 0.42), (0.25, 0.15, 0.08)), ((0.93, 0.91, 0.86), (0.10, 0.10, 0.11)))


def draw(seed: int, number: int, size: int) -> bytes:
    """The JPEG of an image, ``size`` pixels a side."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, number, size)).save(buffer, "jpeg", quality=QUALITY)
    return buffer.getvalue()


def pixels(seed: int, number: int, size: int) -> np.ndarray:
    """The pixels of an image, uint8 of shape (size, size, 3)."""
    shown, place = block(seed, number // BLOCK), number % BLOCK
    name = list(CLASSES)[shown.classes[place]]
    gains, strength, behind = LIGHT[list(MARKETPLACES)[shown.marketplaces[place]]]
    difficulty = float(shown.difficulty[place])
    design = generator(seed, int(shown.products[place]), DESIGN)
    view = generator(seed, number, VIEW)

    tilt, zoom = view.uniform(-0.2, 0.2), view.uniform(0.9, 1.12)
    x, y = _turned(*_grid(size), tilt, zoom, view.uniform(-0.06, 0.06, 2))
    # the width of an edge: a hard image is out of focus, and its colours are near to each other
    soft = (0.8 + 0.03 * size * difficulty * view.random()) / size
    colours = _colours(name, strength, 1 - 0.55 * difficulty, design)
    outline, opening = FORMS[design.integers(len(FORMS))](x, y)
    cloth = _printed(name, x, y, soft, colours, design, view)
    shade = 1 + view.uniform(-0.5, 0.5) * x + view.uniform(-0.5, 0.5) * y
    wall = behind * view.uniform(0.92, 1.0) - 0.12 * y - 0.25 * np.clip(outline / 0.08 + 1, 0, 1)
    cover = np.clip(outline / soft + 0.5, 0, 1) * (1 - np.clip(opening / soft + 0.5, 0, 1))
    image = _over(wall[..., None], cloth * shade[..., None], cover)
    image *= np.array(gains, dtype=np.float32) * np.float32(view.uniform(0.9, 1.05))
    grain = view.standard_normal((size, size), dtype=np.float32)
    image += (view.uniform(0.012, 0.05) * grain)[..., None]
    return np.asarray(np.clip(image, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _printed(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    soft: float,
    colours: np.ndarray,
    design: np.random.Generator,
    view: np.random.Generator,
) -> np.ndarray:
    """Cloth of the first colour with the pattern in the others, float32 of shape (H, W, 3)."""
    periods, turn = design.uniform(*PERIODS[name]), _turn(name, design)
    across, down = _turned(x, y, turn, 1 / periods, view.uniform(-0.5, 0.5, 2))
    first, second = MOTIFS[name](across, down, soft * periods, design)
    return _over(_over(colours[0], colours[1], first), colours[2], second)


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels, −0.5 to 0.5, right and down; float32 of shape (size, size)."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = np.meshgrid(line, line)
    x.flags.writeable = y.flags.writeable = False  # they are shared
    return x, y


def _turned(
    x: np.ndarray, y: np.ndarray, angle: float, unit: float, to: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a system turned by an angle, with another unit of length and origin."""
    c, s = np.float32(np.cos(angle) / unit), np.float32(np.sin(angle) / unit)
    dx, dy = to.astype(np.float32)
    return c * x + s * y - dx, c * y - s * x - dy


def _turn(name: str, design: np.random.Generator) -> float:
    """The pattern's angle on the product: what is woven or written is rarely askew."""
    if name == "stripes":
        return float(design.uniform(0, np.pi))
    if name == "plaid":
        return float(design.choice([0, 0, np.pi / 4]) + design.normal(0, 0.05))
    return float(design.normal(0, 0.25))


def _colours(
    name: str, strength: float, contrast: float, design: np.random.Generator
) -> np.ndarray:
    """Cloth and two inks, float32 of shape (3, 3): a row each, red, green, blue from 0 to 1."""
    if name == "animal" and design.random() < 0.75:
        light, dark = (np.array(colour) for colour in FUR[design.integers(len(FUR))])
        fur = np.stack([light, light + 0.8 * (dark - light), dark])
        return np.asarray(light + contrast**0.5 * (fur - light), dtype=np.float32)
    bright = design.uniform(0.12, 0.9)
    away = 1 if bright < 0.5 else -1
    steps = np.array([0, design.uniform(0.3, 0.5), design.uniform(0.2, 0.65)])
    level = np.clip(bright + away * contrast * steps, 0.03, 0.97)
    hues = design.random() + design.uniform(-0.25, 0.25, 3)
    hues[2] += design.choice([0, 0.5])  # an opposite now and then
    vivid = strength * design.uniform(0.05, 0.45, 3)
    # colours are strongest at middling brightness
    chroma = vivid * (1 - (2 * level - 1) ** 2)
    wheel = np.cos(2 * np.pi * (hues[:, None] - np.array([0, 1, 2]) / 3))
    return np.asarray(np.clip(level[:, None] + chroma[:, None] * wheel, 0, 1), dtype=np.float32)


def _over(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Colours of shape (H, W, 3), or that broadcast to it, mixed by a cover of shape (H, W)."""
    return np.asarray(below + cover[..., None] * (above - below))


def _box(x: np.ndarray, y: np.ndarray, half: tuple[float, float], corner: float) -> np.ndarray:
    """Distance to the edge of a box with round corners, positive inside."""
    across, down = np.abs(x) - (half[0] - corner), np.abs(y) - (half[1] - corner)
    outside = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    return np.asarray(corner - outside - np.minimum(np.maximum(across, down), 0))


def phone_case(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A tall case with an opening for the camera."""
    return _box(x, y, (0.25, 0.44), 0.07), _box(x + 0.12, y + 0.32, (0.07, 0.06), 0.03)


def apron(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A skirt, a bib, and the ribbon around the neck."""
    skirt, bib = _box(x, y - 0.14, (0.37, 0.31), 0.06), _box(x, y + 0.2, (0.19, 0.22), 0.04)
    ribbon = 0.012 - np.abs(np.hypot(x, y + 0.42) - 0.09)
    return np.maximum(np.maximum(skirt, bib), ribbon), np.full_like(x, -1)


def cushion(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A square with round corners."""
    return _box(x, y, (0.4, 0.4), 0.1), np.full_like(x, -1)


# each gives the distance to its outline and to its opening, positive inside
FORMS = (phone_case, apron, cushion)
