"""What counts as learnt: how guesses score, by hand, by enumeration and by drawing them."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from semigrid.grid.analysis.guesses import guesses_p, is_above_chance
from semigrid.grid.analysis.statistics import Weighted, plain


@pytest.mark.parametrize("seeds", [1, 3])
def test_images_of_equal_weight_are_a_binomial(seeds: int) -> None:
    """30 of 200, whatever the number of seeds: p is 2.5 % at a chance of 10.6 %."""
    right = plain(np.repeat(np.arange(200)[None] < 30, seeds, axis=0))
    for chance in (0.1, 0.15):
        by_hand = stats.binom.sf(29, 200, chance)
        assert guesses_p(right, chance) == pytest.approx(by_hand, rel=1e-6)
    edge = stats.beta.ppf(0.025, 30, 171)  # Clopper and Pearson's lower end
    assert edge == pytest.approx(0.1037, abs=0.0005)
    assert is_above_chance(right, edge - 1e-6) and not is_above_chance(right, edge + 1e-6)


def test_rare_classes_by_enumeration() -> None:
    """One, three and two images of three classes: 64 ways to guess."""
    labels = np.array([0, 1, 1, 1, 2, 2])
    ways = [np.array([way]) for way in product([False, True], repeat=6)]
    cells = [Weighted(way, labels, np.ones(3)) for way in ways]
    likely = [(1 / 3) ** way.sum() * (2 / 3) ** (6 - way.sum()) for way in ways]
    for cell in cells:
        by_hand = sum(
            p for p, other in zip(likely, cells, strict=True) if other.mean() >= cell.mean() - 1e-9
        )
        assert guesses_p(cell, 1 / 3) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("images", [[20] * 10, [75] * 14 + [1, 1, 2, 3, 5, 9]])
def test_guesses_are_seldom_above_chance(images: list[int]) -> None:
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(images)), images)
    chance, level = 1 / len(images), 1 - 0.05 / 16
    passed = 0
    for _ in range(4000):
        alike = np.repeat(draw.random((1, len(labels))) < chance, 3, axis=0)
        passed += is_above_chance(Weighted(alike, labels, np.ones(len(images))), chance, level)
    assert passed <= 16  # 0.16 % are promised: 6 of 4,000


def test_trainings_are_nearly_always_above_chance() -> None:
    draw = np.random.default_rng(1)
    labels, level = np.arange(200) % 10, 1 - 0.05 / 16
    trainings = [draw.random((3, 200)) < draw.normal(0.5, 0.05, (3, 1)) for _ in range(300)]
    cells = [Weighted(right, labels, np.ones(10)) for right in trainings]
    assert all(is_above_chance(cell, 0.1, level) for cell in cells)
