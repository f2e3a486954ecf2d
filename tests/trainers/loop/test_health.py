import math
from typing import Any

from tests.helpers.tiny import tiny_recipe

from semigrid.trainers.loop.health import collapse, pool_unused

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


def test_three_sick_evaluations_in_a_row_are_a_collapse() -> None:
    assert found(ONE_CLASS, ONE_CLASS) is None
    assert found(ONE_CLASS, ONE_CLASS, WELL, ONE_CLASS, ONE_CLASS) is None
    message = found(WELL, *[ONE_CLASS] * 3)
    assert message is not None and "has collapsed" in message and "the last at step 40" in message


def test_the_floor_and_the_count_are_the_recipes() -> None:
    assert found(ONE_CLASS, ONE_CLASS, collapse_evaluations=2) is not None
    assert found(*[ONE_CLASS] * 3, collapse_evaluations=0) is None
    assert found(*[ONE_CLASS] * 3, min_pseudo_entropy=0.04) is None
    # a run of two evaluations is watched for two
    assert found(ONE_CLASS, ONE_CLASS, evaluations=2) is not None


def test_a_pool_that_is_never_used_is_no_collapse() -> None:
    assert found(*[MASKED] * 5) is None
    assert pool_unused(history(*[MASKED] * 5))
    assert not pool_unused(history(*[MASKED] * 4, WELL))  # once is enough
    assert not pool_unused(history((0.01, 2.0)))  # the limit itself
    assert not pool_unused([])
    assert not pool_unused([{"step": 1, "loss": 0.5}])  # a method without a pool


def test_labels_that_are_nearly_all_of_one_class_by_nature_are_no_collapse() -> None:
    recipe = tiny_recipe("semi", collapse_evaluations=3)
    assert collapse(history(*[ONE_CLASS] * 3), recipe, natural=0.2) is None
    assert collapse(history(*[(0.5, 0.0)] * 3), recipe, natural=0.0) is None
