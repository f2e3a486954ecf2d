"""Statistics against other people's implementations, and their promises in simulations."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    top_k_accuracy_score,
)
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from semigrid.grid.analysis.statistics import (
    Weighted,
    accuracy_interval,
    compare,
    holm,
    plain,
)
from semigrid.trainers.evaluation.scores import ECE_BINS, scores


def table(images: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random true classes and probabilities; every class has an image where there is room."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(images) % classes)
    logits = draw.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1
    probabilities = np.exp(2 * logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("images", [1, 7, 500])
@pytest.mark.parametrize("classes", [2, 5, 6, 30])
def test_scores_are_those_of_sklearn_and_torchmetrics(images: int, classes: int) -> None:
    labels, probabilities = table(images, classes, 100 * images + classes)
    # shares as among these images: each image counts the same
    found = scores(labels, probabilities, np.bincount(labels, minlength=classes))
    chosen = probabilities.argmax(axis=1)
    assert found.acc1_natural == pytest.approx(accuracy_score(labels, chosen))
    own = log_loss(labels, probabilities, labels=range(classes))
    assert found.ce_natural == pytest.approx(own)
    tensors = torch.tensor(probabilities), torch.tensor(labels)
    top5 = multiclass_accuracy(*tensors, classes, average="micro", top_k=min(5, classes))
    assert found.acc5_natural == pytest.approx(float(top5))
    # classes count the same where each has as many images, the same ones over and over
    counts = np.bincount(labels)
    often = torch.tensor((np.lcm.reduce(counts[counts > 0]) // counts.clip(1))[labels])
    alike = (tensor.repeat_interleave(often, 0) for tensor in tensors)
    ece = multiclass_calibration_error(*alike, classes, n_bins=ECE_BINS, norm="l1")
    assert found.ece == pytest.approx(float(ece), abs=1e-5)
    if images >= classes:
        assert found.acc1 == pytest.approx(balanced_accuracy_score(labels, chosen))
        weights = 1 / np.bincount(labels)[labels]
        ce = log_loss(labels, probabilities, sample_weight=weights, labels=range(classes))
        assert found.ce == pytest.approx(ce)
        k = min(5, classes)
        if k < classes:
            top5 = top_k_accuracy_score(labels, probabilities, k=k, sample_weight=weights)
            assert found.acc5 == pytest.approx(top5)


def test_scores_of_odd_tables() -> None:
    # one class: nothing can be wrong
    one = scores(np.zeros(3, int), np.ones((3, 1)), np.ones(1))
    assert (one.acc1, one.acc5, one.ce, one.acc1_natural, one.ece) == (1, 1, 0, 1, 0)
    # all classes tied: the first is chosen, as everywhere in the project
    tied = scores(np.arange(4), np.full((4, 4), 0.25), np.ones(4))
    assert (tied.acc1, tied.acc1_natural, tied.ece) == (0.25, 0.25, 0)
    # a class without test images has no accuracy that could count
    some = scores(np.array([0, 0, 2]), np.eye(3)[[0, 1, 2]] * 0.7 + 0.1, np.ones(3))
    assert some.acc1 == 0.75
    # nor one that could count for what it would be expected to occur
    some = scores(np.array([0, 0, 2]), np.eye(3)[[0, 1, 2]] * 0.7 + 0.1, np.array([0.3, 0.6, 0.1]))
    assert some.acc1_natural == pytest.approx((0.3 * 0.5 + 0.1 * 1) / 0.4)
    # sure and right, in the last bin
    assert scores(np.arange(3), np.eye(3), np.ones(3)).ece == 0
    with pytest.raises(ValueError, match="no test images"):
        scores(np.zeros(0, int), np.zeros((0, 3)), np.ones(3))


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 40), (40, 40), (17, 40), (3, 4)])
def test_the_interval_of_a_share_is_wilsons(right: int, images: int) -> None:
    expected = proportion_confint(right, images, method="wilson")
    for found in (
        accuracy_interval(plain((np.arange(images) < right)[None, :])),
        # seeds that agree on every image tell no more than one of them
        *([accuracy_interval(plain(np.ones((3, images), bool)))] if right == images else []),
    ):
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("images", [12, 50, 1000])
@pytest.mark.parametrize("seeds", [3, 10])
def test_a_mistake_of_one_seed_changes_little(images: int, seeds: int) -> None:
    right = np.ones((seeds, images))
    none = accuracy_interval(plain(right)).low
    right[0, 0] = 0
    one = accuracy_interval(plain(right)).low
    right[:, 0] = 0
    all_seeds = accuracy_interval(plain(right)).low
    assert one == pytest.approx(none, abs=0.02) and all_seeds < min(one, none)


def correct(share: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Right and wrong, images of all difficulties: what is hard for one seed is for the other."""
    draw = np.random.default_rng(seed)
    logits = np.log(share / (1 - share)) + 2 * draw.normal(size=shape[1])
    return draw.random(shape) < 1 / (1 + np.exp(-logits - draw.normal(size=shape)))


@pytest.mark.parametrize("seed", range(5))
def test_two_models_are_compared_as_by_mcnemar(seed: int) -> None:
    first, second = correct(0.8, (1, 60), seed), correct(0.6, (1, 60), seed)
    pairs = pd.crosstab(first[0], second[0]).reindex(
        index=[True, False], columns=[True, False], fill_value=0
    )
    found = compare(plain(first), plain(second))
    assert found.p == pytest.approx(mcnemar(pairs.to_numpy(), exact=True).pvalue)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert found.interval.low <= found.difference <= found.interval.high
    other = compare(plain(second), plain(first))
    assert (other.p, other.difference) == (pytest.approx(found.p), -found.difference)
    assert other.interval.low == pytest.approx(-found.interval.high)


def test_the_interval_of_a_pair_is_agresti_and_mins() -> None:
    # by hand: 8 images only the first has, 2 only the second, of 50
    first, second = np.zeros((1, 50), bool), np.zeros((1, 50), bool)
    first[0, :8] = second[0, 8:10] = True
    middle = (8.5 - 2.5) / 52
    half = 1.959964 * (8.5 + 2.5 - (8.5 - 2.5) ** 2 / 52) ** 0.5 / 52
    found = compare(plain(first), plain(second)).interval
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_seeds_and_images_count_as_in_an_analysis_of_variance() -> None:
    right = correct(0.7, (4, 30), 3)
    right[0, :20] = True  # one training is better: seeds vary beyond chance
    cells = pd.DataFrame(right.astype(float)).stack().rename("y").reset_index()
    squares = anova_lm(ols("y ~ C(level_0) + C(level_1)", cells).fit())["mean_sq"]
    of_seeds, of_images, residual = squares.to_numpy()
    assert of_images > residual and of_seeds > residual
    # Hillis (2007), with images and seeds in the places of cases and readers
    together = of_seeds + of_images - residual
    variance, share = together / right.size, right.mean()
    # two images are added to what tells how far seeds scatter, one right and one wrong by all
    added = (
        pd.Series([*right.mean(axis=0), 0, 1]).var() * 31 - right.mean(axis=0).var() * 30
    ) / 900
    freedom = 3 * ((variance + added) / (of_seeds / right.size)) ** 2
    t = stats.t.ppf(0.975, freedom)
    images = share * (1 - share) / variance
    middle = (share + t**2 / (2 * images)) / (1 + t**2 / images)
    half = (t / (1 + t**2 / images)) * (
        share * (1 - share) / images + (t / (2 * images)) ** 2
    ) ** 0.5
    found = accuracy_interval(plain(right))
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))


def test_odd_comparisons() -> None:
    all_right, all_wrong = np.ones((2, 9), bool), np.zeros((2, 9), bool)
    apart = compare(plain(all_right), plain(all_wrong))
    assert apart.difference == 1 and apart.p < 0.01
    # a missing seed: the other cell's scatter stands for both
    uneven = compare(plain(correct(0.8, (3, 200), 0)), plain(correct(0.5, (1, 200), 0)))
    assert uneven.p < 0.05 and uneven.interval.low > 0
    one_image = compare(plain(np.array([[True]])), plain(np.array([[False]])))
    assert one_image.p == 1 and one_image.interval.low <= 0 <= one_image.interval.high


@pytest.mark.parametrize("seed", range(4))
def test_holms_correction_is_that_of_statsmodels(seed: int) -> None:
    draw = np.random.default_rng(seed)
    p = draw.random(draw.integers(1, 12)) ** 3
    p[: len(p) // 3] = p[0]  # ties
    assert holm(list(p)) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert holm([]) == []


# Experiments with a known truth: images of all difficulties, trainings that scatter.
MEAN, EXPERIMENTS, IMAGES = 1.5, 500, 400


def trained(
    difficulty: np.ndarray, seeds: int, scatter: float, draw: np.random.Generator
) -> np.ndarray:
    shape = (seeds, len(difficulty))
    logits = MEAN - difficulty + draw.normal(0, 1, shape) + draw.normal(0, scatter, (seeds, 1))
    return draw.random(shape) < 1 / (1 + np.exp(-logits))


def truth(scatter: float) -> float:
    """Over all images and trainings, by quadrature: one normal variable in the logistic."""
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    spread = (2**2 + 1 + scatter**2) ** 0.5
    return float((weights / (1 + np.exp(-MEAN - spread * points))).sum() / weights.sum())


@pytest.mark.parametrize(("seeds", "scatter"), [(1, 0.0), (3, 0.0), (3, 0.1), (5, 0.2)])
def test_intervals_hold_the_truth_and_equal_cells_are_seldom_told_apart(
    seeds: int, scatter: float
) -> None:
    draw, expected = np.random.default_rng(seeds), truth(scatter)
    held = apart = 0
    for _ in range(EXPERIMENTS):
        difficulty = draw.normal(0, 2, IMAGES)
        first, second = (trained(difficulty, seeds, scatter, draw) for _ in range(2))
        interval = accuracy_interval(plain(first))
        held += interval.low <= expected <= interval.high
        apart += compare(plain(first), plain(second)).p < 0.05
    assert 0.92 <= held / EXPERIMENTS <= 0.98
    assert apart / EXPERIMENTS <= 0.05


@pytest.mark.parametrize("seeds", [1, 3])
def test_cells_that_differ_are_told_apart(seeds: int) -> None:
    draw = np.random.default_rng(seeds)
    told = 0
    for _ in range(100):
        difficulty = draw.normal(0, 2, IMAGES)
        first = trained(difficulty, seeds, 0.1, draw)
        second = trained(difficulty + 1, seeds, 0.1, draw)
        told += compare(plain(first), plain(second)).p < 0.05
    assert told > 85


def of_seeds(*right: int) -> Weighted:
    """So many of 100 images right in each seed, the same first ones."""
    return plain(np.arange(100) < np.array(right)[:, None])


def test_two_cells_that_agree_by_luck_scatter_as_cells_usually_do() -> None:
    steady = [of_seeds(80, 80, 80), of_seeds(70, 70, 70)]
    usual = [of_seeds(n - 4, n, n + 4) for n in (60, 65, 70)]  # a standard deviation of 4 points
    alone = compare(*steady)
    among = compare(*steady, others=usual)
    assert among.difference == alone.difference == pytest.approx(0.1)
    # variances 0, 0 and three times 0.0016, whose median is divided by that of chi-squared with 2
    # degrees of freedom, log 4; 10 / 2 are left, and the images' part is added, less its chance
    seeds = (1 / 3 + 1 / 3) * 0.0016 * 2 / np.log(4)
    images = 0.1 * 0.9 / 99
    half = stats.t.ppf(0.975, 5 * ((seeds + images) / seeds) ** 2) * (seeds + images) ** 0.5
    assert among.interval.high == pytest.approx(0.1 + half)
    assert alone.interval.high < among.interval.high


def test_one_cell_that_scatters_widely_says_nothing_of_the_others() -> None:
    pair = [of_seeds(79, 80, 81), of_seeds(69, 70, 71)]
    alike = [of_seeds(n - 1, n, n + 1) for n in (50, 60)]
    before = compare(*pair, others=alike).interval
    after = compare(*pair, others=[*alike, of_seeds(20, 60, 100)]).interval
    assert after.low == pytest.approx(before.low, abs=1e-3)
    # and has its own wide interval
    wide = compare(of_seeds(20, 60, 100), pair[0], others=[pair[1], *alike])
    assert wide.is_vague
