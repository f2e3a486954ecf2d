"""A step before a run: of the method's own settings, what the method says."""

from dataclasses import replace

import pytest
from pydantic import Field
from tests.helpers.tiny import tiny_model, tiny_recipe

from semigrid.trainers.loop.rehearsal import rehearse, rehearsed
from semigrid.trainers.methods import registry
from semigrid.trainers.methods.semi import SEMI, SemiRecipe
from semigrid.trainers.methods.step import StepContext, StepInput, StepTargets
from semigrid.trainers.trial.data import view_settings


class OwnRecipe(SemiRecipe):
    """A threshold that means something else."""

    confidence_threshold: float = Field(2.0, gt=1)


@pytest.mark.parametrize("method", ["semi", "fixmatch"])
def test_all_images_of_a_pool_teach_in_a_rehearsal(method: str) -> None:
    few = rehearsed(tiny_recipe(method, confidence_threshold=0.9), method, 1)
    assert few.model_dump()["confidence_threshold"] == 0
    assert (few.batch_size, few.total_steps) == (2, 2)


def test_settings_of_other_methods_are_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, int]] = []

    def step_targets(step: StepInput, context: StepContext[OwnRecipe]) -> StepTargets:
        targets = SEMI.step_targets(step, context)
        seen.append((context.recipe.confidence_threshold, len(targets.rows[1])))
        return targets

    own = replace(SEMI, name="own", recipe=OwnRecipe, step_targets=step_targets, rehearsed={})
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, own))
    registry.forget()
    try:
        recipe = tiny_recipe("own", confidence_threshold=1.5)
        few = rehearsed(recipe, "own", 1)
        views = view_settings(few, ((0.5,) * 3, (0.5,) * 3))
        rehearse(tiny_model(few), few, "own", views, 10, True)
    finally:
        registry.forget()
    assert seen == [(1.5, 0)]  # no answer is that sure
