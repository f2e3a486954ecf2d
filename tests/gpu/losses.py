"""The same twenty steps on the device and on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tests.gpu.parts import Line, Setup, failed_unless
from tests.helpers.tiny import TEN_CLASSES, VIT, VIT_ARGS, tiny_recipe, tiny_streams

from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import Precision
from semigrid.trainers.recipe import SteppedRecipe

STEPS, STEPS_IN_SMALL = 20, 6
# Largest difference of a step's loss, and of the mean over all steps, as shares of the CPU's. In
# bf16 the two round differently (on a CPU, finetune in bf16 is 0.003 and 0.0008 from fp32), and of
# semi an image next to the threshold may count on one and not on the other. Other images: 0.8.
TOLERANCE: dict[tuple[str, Precision], tuple[float, float]] = {
    ("finetune", "fp32"): (2e-3, 5e-4),
    ("finetune", "bf16"): (0.02, 5e-3),
    ("semi", "fp32"): (2e-3, 5e-4),
    ("semi", "bf16"): (0.1, 0.02),
}
# 1.1 million parameters, 65 tokens an image: some seconds on a CPU
SMALL_ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 4, "class_token": False}
SMALL_ARGS |= {"embed_dim": 128, "depth": 6, "num_heads": 4}
SMALL = {"img_size": 32, "batch_size": 8, "unlabeled_ratio": 4}


def exact_convolutions() -> None:
    """Without this a GPU rounds the patch embedding's inputs to ten bits (TF32), even in fp32."""
    torch.backends.cudnn.allow_tf32 = False


def small_recipe(method: str, setup: Setup, **settings: Any) -> SteppedRecipe:
    sizes = {} if setup.tiny else SMALL
    if method == "finetune":
        sizes = {name: value for name, value in sizes.items() if name != "unlabeled_ratio"}
    return tiny_recipe(method, **sizes | settings)


def small_training(
    method: str,
    recipe: SteppedRecipe,
    setup: Setup,
    runtime: Runtime,
    precision: Precision = "fp32",
) -> Training:
    """A small ViT on digits; its numbers depend on the recipe alone."""
    args = VIT_ARGS if setup.tiny else SMALL_ARGS
    return Training(
        recipe,
        method,
        create_model(VIT, 10, recipe, args, False, 0),
        None,
        tiny_streams(open_dataset("builtin://digits"), recipe, method),
        runtime,
        class_shares=TEN_CLASSES,
        seed=0,
        precision=precision,
    )


def small_run(
    method: str,
    recipe: SteppedRecipe,
    setup: Setup,
    device: str,
    folder: Path,
    precision: Precision = "fp32",
) -> Outcome:
    runtime = Runtime(Checkpoints(open_storage(folder)), device=device)
    return train(small_training(method, recipe, setup, runtime, precision))


def losses_of(outcome: Outcome) -> list[float]:
    return [record["loss"] for record in outcome.history]


def differences(found: list[float], expected: list[float]) -> tuple[float, float]:
    """The largest difference of two series of losses, and that of their means, as shares."""
    assert len(found) == len(expected) > 0, "one has more evaluations than the other"
    each = max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))
    mean = abs(sum(found) - sum(expected)) / abs(sum(expected))
    return each, mean


def compared(
    what: str, found: list[float], expected: list[float], tolerance: tuple[float, float]
) -> Line:
    each, mean = differences(found, expected)
    return Line(
        what,
        f"{each:.1e}, mean {mean:.1e}",
        f"≤ {tolerance[0]:g}, mean ≤ {tolerance[1]:g}",
        failed_unless(each <= tolerance[0] and mean <= tolerance[1]),
        {"found": found, "expected": expected},
    )


def losses(setup: Setup) -> Iterator[Line]:
    """Relative differences of the losses of 20 steps from the CPU's, by method and precision."""
    exact_convolutions()
    steps = STEPS_IN_SMALL if setup.tiny else STEPS
    for (method, precision), tolerance in TOLERANCE.items():
        recipe = small_recipe(method, setup, steps=steps, evaluations=steps)
        here, there = (
            losses_of(small_run(method, recipe, setup, device, setup.folder / name, precision))
            for device, name in (
                (setup.device, f"{method}-{precision}"),
                ("cpu", f"{method}-{precision}-cpu"),
            )
        )
        yield compared(f"{method}, {precision}, beside CPU", here, there, tolerance)
