import math
from typing import Any

import pytest
import timm
import torch
from tests.helpers.tiny import tiny_recipe

from semigrid.trainers.health import Speedometer, collapse, flops_per_image, peak_flops

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


def test_flops_of_published_models() -> None:
    # 17.58 and 1.82 G multiply-adds, as their papers and timm's results table have them
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_224")
        resnet = timm.create_model("resnet18")
    assert flops_per_image(vit, 224) == pytest.approx(2 * 17.58e9, rel=0.01)
    assert flops_per_image(resnet, 224) == pytest.approx(2 * 1.82e9, rel=0.01)
    assert next(vit.parameters()).device.type == "meta"


def test_a_model_that_cannot_be_counted_stops_nothing() -> None:
    with torch.device("meta"):
        cait = timm.create_model("cait_xxs24_224")
    assert flops_per_image(cait, 224) is None
    assert Speedometer(None, 1e12).reading() == {}


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA A100-SXM4-40GB", "fp16", 312e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA H200", "fp32", 67e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA T400", "fp16", None),
        ("another", "bf16", None),
    ],
)
def test_peaks(name: str, precision: str, expected: float | None) -> None:
    assert peak_flops(name, precision) == expected


def test_speed_by_hand() -> None:
    meter = Speedometer(forward_flops=100, peak=1000.0)
    assert meter.reading() == {}
    meter.add(images=6, teacher_rows=4, student_rows=3, seconds=2.0)
    meter.add(images=6, teacher_rows=4, student_rows=1, seconds=2.0)
    # 8 forwards of the teacher, 4 forwards and backwards (3 forwards' worth) of the student
    reading = meter.reading()
    assert reading == {"images_per_s": 3.0, "flops_utilization": (8 + 12) * 100 / 4 / 1000}
    assert Speedometer(100, None).reading() == {}
    meter.reset()
    assert meter.reading() == {}
