"""The exact test against all ways to hand the images out, written out."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semigrid.grid.analysis.flips import MOST_SUMS, flips_p
from semigrid.grid.analysis.statistics import Weighted, compare


def enumerated(signs: list[int], weights: list[Fraction]) -> float:
    """The p-value by its definition, in whole numbers: no sum is rounded."""
    unit = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * unit) for weight in weights]
    sums = np.zeros(1, np.int64)
    for weight in whole:
        sums = np.concatenate([sums + weight, sums - weight])
    found = abs(sum(sign * weight for sign, weight in zip(signs, whole, strict=True)))
    return float((np.abs(sums) >= found).mean())


CLASSES = [20, 20, 10, 5, 4]
LABELS = np.repeat(np.arange(len(CLASSES)), CLASSES)
images = st.lists(
    st.tuples(st.sampled_from(range(len(LABELS))), st.sampled_from([-1, 1])),
    max_size=13,
    unique_by=lambda pair: pair[0],
)


@given(images)
def test_the_p_value_is_the_share_of_all_ways_to_hand_the_images_out(
    pairs: list[tuple[int, int]],
) -> None:
    first, second = np.zeros((2, 1, len(LABELS)), bool)
    for image, sign in pairs:
        (first if sign > 0 else second)[0, image] = True
    cells = (Weighted(right, LABELS, np.ones(len(CLASSES))) for right in (first, second))
    weights = [Fraction(1, CLASSES[LABELS[image]]) for image, _ in pairs]
    expected = enumerated([sign for _, sign in pairs], weights)
    assert compare(*cells).p == pytest.approx(expected, abs=1e-12)


def test_ties_count() -> None:
    weights, counts = np.array([1 / 20, 1 / 10]), np.array([2, 1])
    # the eight sums, in twentieths: 4, 2, 2, 0, 0, −2, −2, −4
    for found, ways in ((4 / 20, 2), (2 / 20, 6), (-2 / 20, 6), (1 / 10 - 1 / 20 - 1 / 20, 8)):
        assert flips_p(found, weights, counts) == pytest.approx(ways / 8)
    assert flips_p(0.0, np.zeros(0), np.zeros(0, int)) == 1


def in_two_halves(weights: np.ndarray, found: float) -> float:
    """The same by its definition for up to 40 images: each half's sums, one of them sorted."""

    def sums(of: np.ndarray) -> np.ndarray:
        return np.array(list(product((-1, 1), repeat=min(len(of), 10)))) @ of[:10]

    def all_sums(of: np.ndarray) -> np.ndarray:
        return np.add.outer(sums(of[:10]), sums(of[10:])).ravel()

    half, other = all_sums(weights[::2]), np.sort(all_sums(weights[1::2]))
    beyond = len(other) - np.searchsorted(other, found - 1e-12 - half)
    return float(min(1.0, 2 * beyond.mean() / len(other)))


@pytest.mark.parametrize("kind", ["alike", "very different", "few heavy ones"])
def test_too_many_sums_for_an_enumeration_are_nearly_right(kind: str) -> None:
    draw = np.random.default_rng(len(kind))
    size = 34
    weights = {
        "alike": draw.uniform(0.5, 1, size),
        "very different": draw.dirichlet(np.ones(size)),
        "few heavy ones": 1 / draw.integers(1, 100, size) + draw.uniform(0, 1e-3, size),
    }[kind]
    assert 2**size > MOST_SUMS**2
    signs = draw.choice([-1.0, 1.0], (4000, size))
    for deviations in (0.5, 1.5, 2, 2.5, 3):
        sums = np.abs(signs @ weights)
        found = float(sums[np.abs(sums - deviations * (weights @ weights) ** 0.5).argmin()])
        expected = in_two_halves(weights, found)
        assert expected < 0.001 or flips_p(found, weights, np.ones(size, int)) == pytest.approx(
            expected, rel=0.03
        )


def test_it_is_quick_for_a_test_set_of_any_size() -> None:
    # 100 classes of different sizes, 30,000 images apart: the tail of a normal sum
    draw = np.random.default_rng(0)
    weights, counts = 1 / np.arange(1000, 1100), np.full(100, 300)
    deviation = (counts @ weights**2) ** 0.5
    drawn = ((2 * draw.binomial(counts, 0.5, (20_000, 100)) - counts) @ weights) / deviation
    for z in (0.3, 1.0, 2.0):
        share = float((np.abs(drawn) >= z).mean())
        assert flips_p(z * deviation, weights, counts) == pytest.approx(share, abs=0.01)
