"""Optuna's suggestions as a pure function of earlier waves."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from semigrid.data.storage import open_storage
from semigrid.grid.experiment.schema import Around
from semigrid.grid.experiment.space import search_space
from semigrid.grid.study.search import (
    Suggestions,
    Tried,
    Wave,
    _hash,
    suggest_wave,
)
from semigrid.trainers.methods import published

RECIPE = published("semi", "vit_base_patch16_224.mae", {})
SPACE = search_space("semi", RECIPE, {})


def wave(
    earlier: list[Tried], count: int = 4, sampler: str = "tpe", identity: str = "cell"
) -> list[dict[str, float]]:
    return suggest_wave(Wave(identity, RECIPE, SPACE, sampler, earlier, count))


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
    assert "confidence_threshold" not in search_space("finetune", RECIPE, {})


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
    first = suggest_wave(Wave("cell", RECIPE, space, "tpe", [], 3))
    history = [Tried(p, 1.0) for p in first]
    for params in suggest_wave(Wave("cell", RECIPE, space, "tpe", history, 3)):
        assert 1e-2 <= params["base_lr"] <= 2e-2


def test_the_first_draws_are_the_same_in_waves_of_any_size() -> None:
    first = wave([], 4)
    assert first[:2] + wave(tried(first[:2]), 2) == first


def test_ranges_of_the_file_stand_around_a_value_or_are_absolute_or_none() -> None:
    ranges = {
        "base_lr": Around(times=4),
        "weight_decay": None,
        "confidence_threshold": Around(around=0.6, plus=0.1),
        "drop_path": (0.0, 0.3),
    }
    space = search_space("semi", RECIPE, ranges)
    assert space["base_lr"] == (2.5e-4, 4e-3)
    assert space["confidence_threshold"] == (0.5, 0.7)
    assert space["drop_path"] == (0.0, 0.3)
    assert "weight_decay" not in space and space["unlabeled_loss_weight"] == (2.5, 10.0)


def test_a_recipe_is_not_searched_in_what_it_does_not_use() -> None:
    ranges = {"momentum": (0.5, 0.9), "beta1": (0.8, 0.95), "confidence_threshold": (0.2, 0.6)}
    vit = search_space("finetune", published("finetune", "vit_base_patch16_224.mae", {}), ranges)
    resnet = search_space("finetune", published("finetune", "resnet18", {}), ranges)
    assert vit.keys() - {"base_lr", "weight_decay"} == {"beta1"}
    assert resnet.keys() - {"base_lr", "weight_decay"} == {"momentum"}


def test_a_stopped_trial_counts_as_pruned() -> None:
    history = tried(wave([], 5))
    best = max(history, key=lambda trial: trial.score or 0)
    early = Tried(best.params, best.score, stopped=True, rungs={3: best.score or 0})
    stopped = [early if trial is best else trial for trial in history]
    assert wave(stopped) != wave(history)  # it counts after those that were finished
    for sampler in ("gp", "random"):
        assert wave(stopped, sampler=sampler)


def test_a_remembered_suggestion_is_the_one_that_would_be_made(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    history = tried(wave([], 6))

    def remembered(earlier: list[Tried], writes: bool = False) -> list[dict[str, float]]:
        memory = Suggestions(storage, writes)
        return memory.suggest(Wave("cell", RECIPE, SPACE, "tpe", earlier, 4))

    first = wave(history)
    assert remembered(history) == first
    assert storage.names("suggested") == []  # who only looks writes nothing
    assert remembered(history, writes=True) == wave(history)
    file = tmp_path / "suggested" / "cell.json"
    # it is really read: Optuna is not asked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optuna, "create_study", None)
        assert remembered(history) == first
        with pytest.raises(TypeError):
            wave(history)
    # and only for just these inputs
    worse = [Tried(t.params, 100 - (t.score or 0)) for t in history]
    assert remembered(worse) == wave(worse)
    # a changed digit would be another trial
    whole = file.read_text()
    file.write_text(whole.replace(repr(first[0]["base_lr"]), "0.001234"))
    assert file.read_text() != whole and remembered(history) == first
    for cut in (0, 1, 50):
        file.write_bytes(file.read_bytes()[:cut])
        assert remembered(history) == wave(history)


def test_a_memory_that_cannot_be_written_costs_time_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "suggested").write_text("a file where the folder should be")
    memory = Suggestions(open_storage(tmp_path), writes=True)
    assert memory.suggest(Wave("cell", RECIPE, SPACE, "tpe", [], 3)) == wave([], 3)


@pytest.mark.parametrize(
    "change",
    [{"steps": 10**12}, {"base_lr": 1e9}, {"base_lr": "x"}, {"base_lr": float("nan")}],
)
def test_suggestions_that_no_search_makes_are_made_again(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    storage, asked = open_storage(tmp_path), Wave("cell", RECIPE, SPACE, "tpe", [], 3)
    assert Suggestions(storage, writes=True).suggest(asked) == wave([], 3)
    file = tmp_path / "suggested" / "cell.json"
    content = json.loads(file.read_text())
    for params in content["suggested"].values():
        params[-1] |= change
    content["sha256"] = _hash(content["suggested"])  # anybody can do that
    file.write_text(json.dumps(content))
    assert Suggestions(storage).suggest(asked) == wave([], 3)
