"""What a plan says where GPUs would wait for their images."""

import copy
from typing import Any

import pytest
from tests.helpers.experiments import SMALL, experiment_text, plan_of
from tests.helpers.scheduling import study_of

from semigrid.grid.status.feeding import feeding_warning


def warnings(backbone: str = "vit_base_patch16_224", **changes: Any) -> list[str]:
    """Of a grid with ViT and Semi-ViT at 224 px on GPUs."""
    models: Any = copy.deepcopy(SMALL["models"])
    models["vit"] |= {"backbone": backbone, "backbone_args": {}}
    for model in models.values():
        model["recipe"]["img_size"] = 224
    train = {"gpus_per_worker": 1, "precision": "bf16", **changes.pop("train", {})}
    text = experiment_text(models=models, train=train, **changes)
    return list(feeding_warning(study_of(plan_of(text))))


def test_the_model_that_waits_longest_has_its_numbers_and_the_way_out() -> None:
    (found,) = warnings()
    assert found.startswith("warning: GPUs may wait for the images of semi-vit, vit: ")
    assert "of about 800 images/s a worker (1 × 800)" in found
    # 0.4 × 989 TFLOP/s; with μ = 2, 11 forwards of 35.1 GFLOP for half an image and two
    assert "an NVIDIA H200 at 40% of its peak trains 2,560 images/s of semi-vit" in found
    assert "cpus_per_worker: 5 with" in found


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"cpus_per_worker": 9}},
        {"train": {"gpus_per_worker": 0}},
        {"train": {"precision": "fp32"}, "prices": {"NVIDIA L4": 1, "cpu": 1}},
    ],
)
def test_nothing_is_said_where_views_are_fast_enough(changes: dict[str, Any]) -> None:
    assert warnings(**changes) == []


def test_a_streamed_pool_is_made_elsewhere() -> None:
    (found,) = warnings(train={"stream": "ray", "cpus_per_worker": 2})
    assert "for the images of vit: " in found and "semi-vit" not in found
