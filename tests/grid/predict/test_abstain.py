"""The abstain threshold: what it promises holds, and no smaller one among those tried would do."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from semigrid.grid.predict.abstain import (
    at_threshold,
    calibrate,
    images_needed,
    lower_bound,
    tried_ranks,
)


def answers(rng: np.random.Generator, images: int, ties: bool = False) -> tuple[np.ndarray, ...]:
    """Confidences, and answers that are right as often as those say, but for a quarter less."""
    confidence = rng.beta(4, 1, images)
    right = rng.random(images) < confidence**1.25
    return (np.round(confidence, 1) if ties else confidence), right


@pytest.mark.parametrize(("right", "answered"), [(0, 5), (5, 5), (3, 7), (480, 500)])
def test_the_bound_is_clopper_and_pearsons(right: int, answered: int) -> None:
    low, _ = proportion_confint(right, answered, alpha=0.1, method="beta")  # two sides of 5 %
    assert lower_bound(right, answered) == pytest.approx(low, abs=1e-12)
    low, _ = proportion_confint(right, answered, alpha=0.02, method="beta")
    assert lower_bound(right, answered, ranks=5) == pytest.approx(low, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("accuracy", [0.8, 0.9, 0.95, 0.99])
def test_it_is_the_smallest_of_the_thresholds_tried(accuracy: float, ties: bool) -> None:
    rng = np.random.default_rng(7)
    for images in (1, 3, 59, 60, 300, 2000):
        confidence, right = answers(rng, images, ties)
        found = calibrate(confidence, right, accuracy)
        ranks = tried_ranks(images, accuracy)
        holding, bounds = [], []
        for rank in ranks:
            threshold = sorted(confidence, reverse=True)[rank - 1]
            chosen = [bool(r) for c, r in zip(confidence, right, strict=True) if c >= threshold]
            low, _ = proportion_confint(
                sum(chosen), len(chosen), alpha=0.1 / len(ranks), method="beta"
            )
            bounds.append(low)
            if low >= accuracy:
                holding.append((threshold, len(chosen), sum(chosen)))
        if holding:
            assert (found.threshold, found.answered, found.right) == min(holding)
        else:
            assert found.threshold is None
            assert found.promised == pytest.approx(max(bounds), abs=1e-9)


def test_the_ranks_depend_on_no_answer_and_end_with_all_of_val() -> None:
    for images in (1, 40, 99, 100, 1000, 50_000):
        ranks = tried_ranks(images, 0.95)
        assert ranks[-1] == images and ranks == sorted(set(ranks)) and len(ranks) <= 20
        assert len(ranks) == 1 or ranks[0] >= images_needed(0.95, len(ranks))
    assert images_needed(0.95) == 59  # 0.95 ** 59 is the first below 0.05


@pytest.mark.parametrize("ties", [False, True])
def test_what_is_promised_holds_in_all_but_a_twentieth(ties: bool) -> None:
    rng = np.random.default_rng(3)
    everything = answers(rng, 1_000_000, ties)  # as good as the truth
    order = np.argsort(everything[0])
    confidence = everything[0][order]
    right_above = np.cumsum(everything[1][order][::-1])[::-1]
    for images, accuracy in ((150, 0.85), (600, 0.9), (3000, 0.95)):
        broken = made = 0
        for _ in range(600):
            found = calibrate(*answers(rng, images, ties), accuracy)
            if found.threshold is None:
                continue
            made += 1
            first = int(np.searchsorted(confidence, found.threshold))
            broken += right_above[first] / (len(confidence) - first) < accuracy
        assert made > 100  # else the promise is empty
        assert broken <= 0.05 * 600 + 2 * np.sqrt(0.05 * 0.95 * 600)


def test_a_model_that_is_always_right_answers_everything() -> None:
    confidence = np.linspace(0.2, 1, 200)
    found = calibrate(confidence, np.ones(200, bool), 0.95)
    assert (found.threshold, found.answered) == (0.2, 200)
    assert "answers 200 of 200 images of val, of which 100.00% are right" in found.describe()


def test_where_nothing_can_be_promised_it_says_why() -> None:
    few = calibrate(np.full(40, 0.9), np.ones(40, bool), 0.95)
    assert few.threshold is None
    assert "val has 40 images, and even if all are right it takes 59" in few.describe()
    bad = calibrate(np.linspace(0, 1, 400), np.arange(400) % 2 == 0, 0.95)
    assert bad.threshold is None and 0.3 < bad.promised < 0.5
    assert "abstain is true for every image" in bad.describe()
    assert f"at least {bad.promised:.2%}" in bad.describe()


def test_a_threshold_as_given_is_only_looked_at() -> None:
    found = at_threshold(np.array([0.2, 0.5, 0.5, 0.9]), np.array([True, False, True, True]), 0.5)
    assert (found.answered, found.right, found.images) == (3, 2, 4)
    assert found.promised == lower_bound(2, 3)
    nothing = at_threshold(np.array([0.2]), np.array([True]), 0.9)
    assert (nothing.answered, nothing.promised) == (0, 0.0) and "—" in nothing.describe()
