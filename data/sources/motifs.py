"""The ten patterns as ink on cloth, at any resolution.

A motif takes the coordinates of the points, ``x`` and ``y`` of shape (H, W), in periods of the
pattern; ``soft``, the width of an edge in periods; and the generator that sets this product's
pattern apart from another of its class. It returns how much of a first and of a second colour
covers each point, both of shape (H, W), from 0 to 1; the second lies over the first.
"""

from collections.abc import Callable

import numpy as np

Ink = tuple[np.ndarray, np.ndarray]
Motif = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], Ink]


def _inside(distance: np.ndarray, soft: float) -> np.ndarray:
    """Coverage by a shape whose edge is where ``distance`` is 0, positive inside."""
    return np.clip(distance / soft + 0.5, 0, 1)


def _off(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.asarray(np.abs(x - np.rint(x)))


def _table(rng: np.random.Generator) -> np.ndarray:
    """A random number for every cell of a plane that repeats after 16 of them."""
    return rng.random((16, 16), dtype=np.float32)


def _at(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.asarray(table.ravel()[((row & 15) << 4) | (column & 15)])


def _cells(
    x: np.ndarray, y: np.ndarray, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates within unit cells, −0.5 to 0.5, and the cells' rows and columns.

    Every second row is moved by ``shift``.
    """
    row = np.rint(y).astype(np.int16)
    x = x + np.float32(shift) * (row & 1)
    column = np.rint(x).astype(np.int16)
    return x - column, y - row, row, column


def _clouds(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth random values from 0 to 1 with features of about one period."""
    table = _table(rng)
    column, row = np.floor(x).astype(np.int16), np.floor(y).astype(np.int16)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    top = _at(table, row, column) * (1 - u) + _at(table, row, column + 1) * u
    bottom = _at(table, row + 1, column) * (1 - u) + _at(table, row + 1, column + 1) * u
    return np.asarray(top * (1 - v) + bottom * v)


def plain(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """One colour, with the faint unevenness of cloth."""
    return rng.uniform(0, 0.15) * _clouds(x, y, rng), np.zeros_like(x)


def stripes(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Parallel bands of one width; the second colour takes every other band, or a pin between."""
    half = rng.uniform(0.15, 0.3)
    first = _inside(half - _off(x), soft)
    if rng.random() < 0.5:
        return first, _inside(half - 2 * _off(x / 2), soft)
    return first, _inside(0.06 - _off(x + 0.5), soft) * (rng.random() < 0.6)


def dots(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Discs on a square or a staggered grid; some grids have two colours."""
    u, v, row, column = _cells(x, y, 0.5 * int(rng.integers(2)))
    disc = _inside(rng.uniform(0.18, 0.34) - np.hypot(u, v), soft)
    other = (row + column) % 2 == 0 if rng.random() < 0.4 else np.zeros_like(disc)
    return disc, disc * other


def plaid(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Two sets of translucent bands that cross at a right angle, with thin lines between."""
    half = rng.uniform(0.17, 0.28)
    bands = (_inside(half - _off(x), soft) + _inside(half - _off(y), soft)) / 2
    width, place = rng.uniform(0.03, 0.07), 0.5 * int(rng.integers(2))
    lines = np.maximum(
        _inside(width - _off(x + place), soft), _inside(width - _off(y + place), soft)
    )
    return bands, 0.85 * lines


def chevron(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Bands that zigzag."""
    slope = rng.uniform(0.9, 1.5)
    zigzag = y + slope * 2 * _off(x / 2)
    steep = float(np.hypot(1, slope))
    half = rng.uniform(0.18, 0.28)
    first = _inside((half - _off(zigzag)) / steep, soft)
    second = _inside((half - 2 * _off(zigzag / 2)) / steep, soft)
    return first, second * (rng.random() < 0.5)


def floral(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Blossoms of five to seven petals, each turned its own way, and leaves between them."""
    u, v, row, column = _cells(x, y, 0.5)
    turns = _table(rng)
    turn = _at(turns, row, column)
    u, v = u + 0.2 * (turn - 0.5), v + 0.2 * (_at(turns, column, row) - 0.5)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    petals = np.abs(np.cos(int(rng.integers(5, 8)) / 2 * angle + 6.28 * turn))
    blossom = _inside(0.37 * (0.45 + 0.55 * petals) - radius, soft)
    heart = _inside(0.12 - radius, soft)
    u, v, row, column = _cells(x + 0.5, y, 0.5)
    angle = np.arctan2(v, u) + 6.28 * _at(turns, row + 7, column)
    leaves = _inside(0.15 * (0.5 + 0.5 * np.cos(2 * angle)) - np.hypot(u, v), soft)
    return blossom, np.maximum(heart, leaves)


def paisley(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Bent drops with a rim, a filling and a dot, turned about by rows."""
    u, v, row, column = _cells(x, y, 0.5)
    side = 1 - 2 * (row & 1)
    angle = 0.6 * (_at(_table(rng), row, column) - 0.5)
    u, v = side * (u * np.cos(angle) - v * np.sin(angle)), u * np.sin(angle) + v * np.cos(angle)
    bend = rng.uniform(0.35, 0.5)

    def drop(scale: float) -> np.ndarray:
        along = (0.2 - v) / (0.78 * scale) + 0.25 * (1 - scale)
        width = np.sqrt(np.clip(along, 0, 1)) * np.clip(1 - along, 0, 1)
        # the tip is drawn aside, the more the nearer to its end
        return np.asarray(
            0.72 * scale * width - np.abs(u + 0.12 - bend * np.clip(along, 0, 1) ** 2)
        )

    outer, inner = _inside(drop(1.0), soft), _inside(drop(0.72), soft)
    kernel = _inside(0.09 - np.hypot(u + 0.08, v - 0.02), soft)
    return outer - 0.8 * kernel * inner, inner * (1 - kernel)


def animal(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """A leopard's rosettes, a zebra's stripes or a giraffe's patches."""
    kind = rng.integers(3)
    if kind == 1:
        warped = x + 1.1 * _clouds(0.6 * x, 0.6 * y, rng) + 0.4 * _clouds(1.7 * x, 1.7 * y, rng)
        thick = 0.13 + 0.2 * _clouds(0.9 * x, 0.5 * y, rng)
        return _inside(thick - _off(warped), soft), np.zeros_like(x)
    near, second = _nearest(x, y, rng)
    if kind == 2:
        return _inside(second - near - rng.uniform(0.1, 0.18), soft), np.zeros_like(x)
    ragged = near + 0.16 * (_clouds(3 * x, 3 * y, rng) - 0.5)
    gaps = _inside(_clouds(1.6 * x, 1.6 * y, rng) - 0.32, 0.1)
    ring = _inside(0.13 - np.abs(ragged - 0.3), soft) * gaps
    return 0.6 * _inside(0.3 - ragged, soft), ring


def _nearest(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest and the second nearest of points scattered one to a cell."""
    across, down = _table(rng), _table(rng)
    row, column = np.rint(y).astype(np.int16), np.rint(x).astype(np.int16)
    nearest = np.full_like(x, 9)
    second = nearest.copy()
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            u = x - column - j - 0.7 * (_at(across, row + i, column + j) - 0.5)
            v = y - row - i - 0.7 * (_at(down, row + i, column + j) - 0.5)
            squared = u * u + v * v
            second = np.minimum(second, np.maximum(nearest, squared))
            nearest = np.minimum(nearest, squared)
    return np.sqrt(nearest), np.sqrt(second)


def geometric(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """Triangles, diamonds, nested squares or hexagons that tile the plane."""
    kind = rng.integers(4)
    if kind == 0:
        colours = _table(rng)
        a, b = np.floor(x).astype(np.int16), np.floor(y).astype(np.int16)
        upper = (x - a + y - b > 1).astype(np.int16)
        edge = _inside(np.abs(x - a + y - b - 1) * 0.7 - 0.03, soft)
        return upper * edge, (_at(colours, 2 * b + upper, a) > 0.6) * edge
    if kind == 1:
        u, v, *_ = _cells(x, y, 0.5)
        diamond = np.abs(u) + np.abs(v)
        first = _inside(0.42 - diamond, soft)
        return first, _inside(0.22 - diamond, soft)
    if kind == 2:
        u, v, *_ = _cells(x, y, 0)
        square = np.maximum(np.abs(u), np.abs(v))
        nested = _inside(0.1 - np.abs(square - 0.32), soft)
        return nested, _inside(0.12 - square, soft)
    # a hexagon is where the nearest point of two staggered grids stays the same
    u, v = x, y / 1.732
    first_grid = (u - np.rint(u)) ** 2 + 3 * (v - np.rint(v)) ** 2
    u, v = u + 0.5, v + 0.5
    second_grid = (u - np.rint(u)) ** 2 + 3 * (v - np.rint(v)) ** 2
    near = np.minimum(first_grid, second_grid)
    rim = _inside(0.34 - np.sqrt(near), soft)
    return 1 - rim, _inside(0.16 - np.sqrt(near), soft)


def other(x: np.ndarray, y: np.ndarray, soft: float, rng: np.random.Generator) -> Ink:
    """What fits no other class: a gradient, camouflage, lines of writing, a swirl or a print."""
    kind = rng.integers(5)
    none = np.zeros_like(x)
    if kind == 0:
        return 0.5 + 0.5 * np.sin(0.7 * x), rng.uniform(0, 0.8) * (0.5 + 0.5 * np.sin(0.5 * y))
    if kind == 1:
        cloth = 0.65 * _clouds(x, y, rng) + 0.35 * _clouds(2.3 * x, 2.3 * y, rng)
        return _inside(cloth - 0.46, soft + 0.02), _inside(cloth - 0.6, soft + 0.02)
    if kind == 2:
        return _writing(x, y, rng), none
    if kind == 3:
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        arms = np.sin(3 * angle + 2.5 * radius + 3 * _clouds(x, y, rng))
        return 0.5 + 0.5 * arms, 0.5 + 0.5 * np.sin(2.2 * radius + 2 * _clouds(2 * x, y, rng))
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    star = 0.75 + 0.2 * np.cos(int(rng.integers(3, 6)) * angle)
    return _inside(star - radius, soft), _inside(0.12 - np.abs(radius - 1.1), soft)


def _writing(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines of marks on a grid of 3 × 5 points that look like letters, with gaps between words."""
    marks, words = _table(rng), _table(rng)
    column, row = np.floor(8 * x).astype(np.int16), np.floor(8 * y).astype(np.int16)
    letter, line = column >> 2, row >> 3
    drawn = _at(marks, row + 3 * line, column + 5 * line) > 0.42
    shown = _at(words, line, letter) > 0.22
    return np.asarray(drawn & shown & (column & 3 < 3) & (row & 7 < 5), dtype=x.dtype)


MOTIFS: dict[str, Motif] = {
    motif.__name__: motif
    for motif in (
        *(animal, chevron, dots, floral, geometric, other, paisley, plaid, plain, stripes),
    )
}
