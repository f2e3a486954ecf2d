"""The exact test of two models on the same images: each image that only one has right could as
well be the other's.

McNemar's test, for images of unequal weight. Ties are many and count (1/20 + 1/20 = 1/10), so sums
are enumerated, not rounded to a grid.
"""

import numpy as np
from scipy import stats

# Sums that are enumerated in each of two parts; all of 2·13 images of different weights.
MOST_SUMS = 2**13
# Sums are equal that differ by less, as a share of the greatest.
_EQUAL = 1e-9


def flips_p(found: float, weights: np.ndarray, counts: np.ndarray) -> float:
    """The share of all ways to hand the images out in which the sum is as far from 0 as found.

    The images are in two parts, the heavy ones and the others. The sums of each are enumerated, if
    the second has not too many: then so many light images are left that their sum is nearly normal,
    and its tail is Edgeworth's, with the kurtosis, for each sum of the heavy ones. Where p is above
    0.001, that is within 3 % of p (tests/grid/analysis/test_flips.py).

    Args:
        found: the weights of the images that the first has right, less those of the second.
        weights: the different weights of images that only one of the two has right, (G,).
        counts: how many images have each, (G,), at least one.
    """
    order = np.argsort(-weights)
    weights, counts = weights[order], counts[order]
    heavy = np.zeros(len(weights), bool)
    sums = 1
    for group, count in enumerate(counts):
        heavy[group] = sums * (count + 1) <= MOST_SUMS
        sums *= count + 1 if heavy[group] else 1
    first, chances = _sums(weights[heavy], counts[heavy])
    # what the others must reach beside each sum of the heavy ones; ties count
    missing = abs(found) - _EQUAL * float(counts @ weights) - first
    rest_weights, rest = weights[~heavy], counts[~heavy]
    if len(rest) < 2 or np.prod(rest + 1.0) <= MOST_SUMS:
        others, of_others = _sums(rest_weights, rest)
        order = np.argsort(others)
        tails = np.append(np.cumsum(of_others[order][::-1])[::-1], 0.0)
        beyond = tails[np.searchsorted(others[order], missing)]
    else:
        beyond = _tail(missing, rest_weights, rest)
    return float(min(1.0, 2 * chances @ beyond))


def _sums(weights: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All sums of images with random signs, and their chances, both (Π(count + 1),)."""
    sums, chances = np.zeros(1), np.ones(1)
    for weight, count in zip(weights, counts, strict=True):
        positive = np.arange(count + 1)
        sums = np.add.outer(sums, weight * (2 * positive - count)).ravel()
        of_group = stats.binom.pmf(positive, count, 0.5)
        chances = np.multiply.outer(chances, of_group).ravel()
    return sums, chances


def _tail(least: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The chance that a sum with random signs is at least so much, (N,), nearly.

    Edgeworth's series up to the fourth cumulant, −2 Σ w⁴; the third is 0.
    """
    variance, greatest = counts @ weights**2, counts @ weights
    z = least / variance**0.5
    kurtosis = -2 * (counts @ weights**4) / variance**2
    tail = stats.norm.sf(z) + stats.norm.pdf(z) * kurtosis / 24 * (z**3 - 3 * z)
    tail = np.clip(tail, 0.0, 1.0)
    return np.where(least > greatest, 0.0, np.where(least < -greatest, 1.0, tail))
