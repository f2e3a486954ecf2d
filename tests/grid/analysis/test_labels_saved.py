"""How many labels a baseline needs: by hand, at the edges, and where the truth is known."""

import numpy as np
import pytest

from semigrid.grid.analysis.labels_saved import labels_needed
from semigrid.grid.analysis.statistics import Weighted, plain


def share(right: int, images: int = 1000) -> Weighted:
    """One seed that gets so many images right."""
    return plain((np.arange(images) < right)[None, :])


def odds(at: float) -> int:
    """How many of 1,000 are right at these odds to one."""
    return round(1000 * at / (1 + at))


# the odds double with the labels: 1, 2, 4, 8 to one
LINE = {100 * 2**k: share(odds(2.0**k)) for k in range(4)}


@pytest.mark.parametrize(
    ("to_one", "labels"), [(2, 200), (4, 400), (5.66, 566), (0.5, 50), (16, 1600)]
)
def test_a_point_on_the_line_is_where_it_was_put(to_one: float, labels: int) -> None:
    found = labels_needed(share(odds(to_one)), LINE)
    assert found is not None and found.labels == pytest.approx(labels, rel=0.02)
    assert found.low is not None and found.high is not None
    assert found.low < found.labels < found.high
    assert found.extrapolated == (not 100 <= labels <= 800)


def test_what_cannot_be_said() -> None:
    assert labels_needed(share(500), {100: share(500)}) is None  # through one point goes any line
    flat = {n: share(700 + number) for number, n in enumerate((100, 200, 400))}
    for target in (share(700), share(900)):
        found = labels_needed(target, flat)
        assert found is not None
        assert (found.labels, found.low, found.high) == (None, None, None)
    falling = {n: share(900 - n) for n in (100, 200, 400)}
    found = labels_needed(share(700), falling)
    assert found is not None and found.labels is None
    # all right: out of reach, but so many labels at least
    perfect = labels_needed(share(1000), LINE)
    assert perfect is not None
    assert perfect.labels is None and perfect.high is None and perfect.extrapolated
    assert perfect.low is not None and perfect.low > 800


def test_more_images_say_it_closer() -> None:
    widths = []
    for images in (200, 1000, 5000):
        line = {n: share(right_of(n, images), images) for n in LINE}
        found = labels_needed(share(right_of(300, images), images), line)
        assert found is not None and found.low is not None and found.high is not None
        widths.append(np.log(found.high / found.low))
    assert widths[0] > widths[1] > widths[2]


def right_of(labels: int, images: int) -> int:
    at = labels / 100
    return round(images * at / (1 + at))


@pytest.mark.parametrize(("seeds", "scatter"), [(1, 0.0), (3, 0.05), (3, 0.15)])
def test_the_truth_is_within_the_interval(seeds: int, scatter: float) -> None:
    draw = np.random.default_rng(seeds)
    held = said = 0
    for _ in range(500):
        difficulty = draw.normal(0, 2, 400)

        def trained(level: float, difficulty: np.ndarray = difficulty) -> Weighted:
            shape = (seeds, len(difficulty))
            logits = level - difficulty + draw.normal(0, 1, shape)
            logits += draw.normal(0, scatter, (seeds, 1))
            return plain(draw.random(shape) < 1 / (1 + np.exp(-logits)))

        baseline = {n: trained(1 + 0.9 * np.log(n / 1000)) for n in (250, 500, 750, 1000)}
        better = draw.uniform(-0.2, 0.8)
        found = labels_needed(trained(1 + 0.9 * np.log(0.5) + better), baseline)
        truth = 500 * np.exp(better / 0.9)
        assert found is not None
        said += found.labels is not None
        held += (found.low or 0) <= truth <= (found.high or np.inf)
    assert said > 450
    assert 0.9 <= held / 500 < 0.995


def test_what_is_said_has_the_val_labels_too() -> None:
    needed = labels_needed(share(odds(4)), LINE)
    assert needed is not None and needed.labels is not None
    fixed, alike = needed.with_val(lambda train: 50), needed.with_val(lambda train: train / 4)
    assert fixed.labels == pytest.approx(450, rel=0.02)
    assert alike.labels == pytest.approx(500, rel=0.02)
    assert fixed.low == needed.low + 50 and fixed.high == needed.high + 50
    assert fixed.extrapolated is needed.extrapolated
    # a cell with 200 of train: what it saves is the same while val is
    assert needed.low is not None and needed.low > 200
    text = fixed.text("vit", "semi", 250)
    assert text.startswith("To match semi with 250 labels, vit would need about 450 (95% interval")
    assert text.endswith(f": about 200 saved, at least {needed.low - 200:.0f}.")
    # nothing is said to be saved where it may be none, or where the rest of the text hedges
    assert fixed.saved(250) == pytest.approx(200, abs=5) and fixed.saved(450) is None
    assert "saved" not in fixed.text("vit", "semi", 450)
    assert "saved" not in fixed.text("vit", "semi", 250, may_save=False)
    # a cell with more than the baseline needs has a number, and no praise
    assert fixed.saved(900) == pytest.approx(-450, abs=5)
    assert "saved" not in fixed.text("vit", "semi", 900)
    assert (
        labels_needed(share(700), {n: share(700) for n in (100, 200)}).with_val(float).low is None
    )
