import math
from typing import Any

import pytest
from tests.helpers.tiny import tiny_recipe

from semigrid.trainers.loop.health import collapse

NATURAL = math.log(10)


def history(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    """Records with these mask rates and entropies."""
    return [
        {"step": 10 * (i + 1), "mask_rate": rate, "pseudo_entropy": entropy}
        for i, (rate, entropy) in enumerate(pairs)
    ]


def found(*pairs: tuple[float, float], **settings: Any) -> str | None:
    settings = {"collapse_evaluations": 3, "evaluations": 10} | settings
    return collapse(history(*pairs), tiny_recipe("semi", **settings), NATURAL)


WELL, MASKED, ONE_CLASS = (0.5, 2.0), (0.001, 2.0), (0.5, 0.1)


def test_a_healthy_run_goes_on() -> None:
    assert found(WELL, WELL, WELL, WELL) is None


@pytest.mark.parametrize(
    ("sick", "reason"), [(MASKED, "nothing is learnt"), (ONE_CLASS, "has collapsed")]
)
def test_three_sick_evaluations_in_a_row_are_a_collapse(
    sick: tuple[float, float], reason: str
) -> None:
    assert found(sick, sick) is None
    assert found(sick, sick, WELL, sick, sick) is None
    message = found(WELL, sick, sick, sick)
    assert message is not None and reason in message and "the last at step 40" in message


def test_two_different_signs_do_not_add_up() -> None:
    assert found(MASKED, ONE_CLASS, MASKED) is None


def test_the_floors_and_the_count_are_the_recipes() -> None:
    assert found(MASKED, MASKED, collapse_evaluations=2) is not None
    assert found(MASKED, MASKED, MASKED, collapse_evaluations=0) is None
    assert found(*[MASKED] * 3, min_mask_rate=0.0001) is None
    assert found(*[ONE_CLASS] * 3, min_pseudo_entropy=0.04) is None
    # a run of two evaluations is watched for two
    assert found(MASKED, MASKED, evaluations=2) is not None


def test_labels_that_are_nearly_all_of_one_class_by_nature_are_no_collapse() -> None:
    recipe = tiny_recipe("semi", collapse_evaluations=3)
    assert collapse(history(*[ONE_CLASS] * 3), recipe, natural=0.2) is None
    assert collapse(history(*[(0.5, 0.0)] * 3), recipe, natural=0.0) is None
