import math
from typing import Any

import pytest
from tests.helpers.tiny import tiny_recipe

from semigrid.trainers.methods.pseudo_labels import collapse, pool_unused

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
MASKED_ONE_CLASS = (0.001, 0.1)


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


def test_confidence_that_falls_to_nothing_is_a_collapse() -> None:
    rates = [0.6, 0.001, 0.0005, 0, 0, 0]
    falling = [(rate, 2.0) for rate in rates]
    assert [found(*falling[:count]) is not None for count in range(1, 7)] == 3 * [False] + 3 * [
        True
    ]
    message = found(*falling[:4])
    assert message is not None and "the last at step 40, fewer than 1% of the pool's" in message
    assert not pool_unused(history(*falling))
    assert found(*falling, collapse_evaluations=0) is None
    # it comes back within three evaluations
    assert found(WELL, MASKED, MASKED, WELL, MASKED, MASKED) is None
    # at the limit it is still used
    assert found(WELL, *[(0.01, 2.0)] * 5) is None


def test_two_different_signs_do_not_add_up() -> None:
    assert found(WELL, MASKED, ONE_CLASS, MASKED) is None


@pytest.mark.parametrize("never", [MASKED, MASKED_ONE_CLASS])
def test_a_pool_that_is_never_used_is_no_collapse(never: tuple[float, float]) -> None:
    assert found(*[never] * 5) is None
    why = pool_unused(history(*[never] * 5))
    assert why is not None and why.startswith("under 1% of the pool's images reached the conf")
    # few images at the start, 3 % of a tenth of the pool, have taught nothing either
    assert found((0.03, never[1]), *[never] * 9, evaluations=10) is None
    assert pool_unused(history((0.03, never[1]), *[never] * 9))
    assert found(*[ONE_CLASS] * 3) is not None  # as soon as they are learnt from


def test_how_much_of_the_pool_must_be_used() -> None:
    assert not pool_unused(history(*[MASKED] * 4, WELL))  # once is enough
    assert not pool_unused(history((0.01, 2.0)))  # the limit itself
    assert not pool_unused([])
    assert not pool_unused([{"step": 1, "loss": 0.5}])  # a method without a pool


def test_labels_that_are_nearly_all_of_one_class_by_nature_are_no_collapse() -> None:
    recipe = tiny_recipe("semi", collapse_evaluations=3)
    assert collapse(history(*[ONE_CLASS] * 3), recipe, natural=0.2) is None
    assert collapse(history(*[(0.5, 0.0)] * 3), recipe, natural=0.0) is None
