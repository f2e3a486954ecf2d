"""Optuna's suggestions as a pure function of earlier waves."""

import pytest

from grid.search import Tried, default_space, suggest_wave
from trainers.recipe import published

RECIPE = published("semi", "vit_base_patch16_224.mae", {})
SPACE = default_space("semi", RECIPE)


def wave(
    earlier: list[Tried], count: int = 4, sampler: str = "tpe", identity: str = "cell"
) -> list[dict[str, float]]:
    return suggest_wave("cell", RECIPE, SPACE, sampler, earlier, count, identity)


def tried(params: list[dict[str, float]]) -> list[Tried]:
    """Scores that prefer a base_lr of 1.5e-3."""
    return [Tried(p, 90 - 1e4 * abs(p.get("base_lr", RECIPE.base_lr) - 1.5e-3)) for p in params]


def test_the_first_trial_is_the_recipe_as_published() -> None:
    assert wave([])[0] == {}
    assert all(wave([])[1:])


def test_the_default_space_surrounds_the_published_values() -> None:
    assert SPACE["base_lr"] == (5e-4, 2e-3)
    assert SPACE["unlabeled_loss_weight"] == (2.5, 10.0)
    assert SPACE["confidence_threshold"] == (0.3, 0.7)
    assert "confidence_threshold" not in default_space("finetune", RECIPE)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_suggestions_repeat_and_stay_within_their_ranges(sampler: str) -> None:
    history = tried(wave([], 6, sampler))
    first, again = wave(history, 4, sampler), wave(history, 4, sampler)
    assert first == again
    assert len({tuple(p.items()) for p in first}) == 4
    for params in first:
        assert params.keys() == SPACE.keys()
        for name, value in params.items():
            assert SPACE[name][0] <= value <= SPACE[name][1]


def test_suggestions_depend_on_the_cell_and_on_earlier_scores() -> None:
    history = tried(wave([], 8))
    assert wave(history) != wave(history, identity="other")
    worse = [Tried(t.params, 100 - (t.score or 0)) for t in history]
    assert wave(history) != wave(worse)


def test_a_diverged_trial_is_no_result() -> None:
    history = tried(wave([], 6))
    assert wave([*history[:5], Tried(history[5].params, None)])  # and Optuna takes it


def test_the_search_finds_the_better_half() -> None:
    history: list[Tried] = []
    while len(history) < 40:
        history += tried(wave(history))
    late = [t.params["base_lr"] for t in history[24:]]
    near = sum(abs(lr - 1.5e-3) < 4e-4 for lr in late)
    assert near > len(late) / 2


def test_a_range_without_the_published_value_is_accepted() -> None:
    space = {"base_lr": (1e-2, 2e-2)}
    first = suggest_wave("cell", RECIPE, space, "tpe", [], 3, "cell")
    history = [Tried(p, 1.0) for p in first]
    for params in suggest_wave("cell", RECIPE, space, "tpe", history, 3, "cell"):
        assert 1e-2 <= params["base_lr"] <= 2e-2
