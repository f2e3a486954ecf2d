"""A step for which the device's memory is too small."""

from collections.abc import Iterator
from typing import Any

import torch
from tests.gpu.losses import compared, exact_convolutions, losses_of
from tests.gpu.parts import Line, Setup, failed_unless
from tests.gpu.speed import free_memory
from tests.gpu.stopwatch import new_model, resident, resolved, timed_training
from torch import nn

from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.train import train
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe

# as shares; sums of the rows are taken in another order
TOLERANCE = (1e-3, 1e-3)
STEPS = 3
# Share of what the whole step needed beyond its weights that is left: half of it fits.
LEFT = 0.6


def memory(setup: Setup) -> Iterator[Line]:
    """Three steps of semi in fp32, then the same with too little memory for all rows at once."""
    exact_convolutions()
    backbone, size, labeled = (
        ("test_vit", 160, 2) if setup.tiny else ("vit_small_patch16_224", 224, 32)
    )
    settings: dict[str, Any] = {"img_size": size, "batch_size": labeled, "unlabeled_ratio": 5}
    settings |= {"steps": STEPS, "evaluations": STEPS, "base_lr": 1e-3, "collapse_evaluations": 0}
    recipe = resolved("semi", backbone, settings | {"confidence_threshold": 0.0})
    rows = 6 * labeled
    expected, limit = _run(recipe, new_model(backbone, recipe), setup, "whole")
    free_memory(setup.device)
    model = new_model(backbone, recipe)
    if setup.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total)
    else:
        _holds_half(model, rows)
    found, _ = _run(recipe, model, setup, "short")
    micro_batch = int(found.speed[-1].get("micro_batch", rows))
    values = {"micro_batch": micro_batch, "limit_bytes": limit}
    right = failed_unless(micro_batch < rows)
    yield Line("most rows in a pass", f"{rows}, then {micro_batch}", f"under {rows}", right, values)
    what = "loss beside the whole step's"
    yield compared(what, losses_of(found), losses_of(expected), TOLERANCE)


def _run(recipe: SteppedRecipe, model: nn.Module, setup: Setup, name: str) -> tuple[Outcome, float]:
    """The outcome, and bytes of memory that the same would be too much for."""
    runtime = Runtime(Checkpoints(open_storage(setup.folder / name)), device=setup.device)
    on_gpu = setup.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    streams = resident("semi", recipe, model)
    training = timed_training(
        recipe, "semi", model, streams, runtime, precision="fp32", options=TrainOptions()
    )
    outcome = train(training)
    if not on_gpu:
        return outcome, 0.0
    lasting = torch.cuda.memory_allocated()
    return outcome, lasting + LEFT * (torch.cuda.max_memory_allocated() - lasting)


def _holds_half(model: nn.Module, rows: int) -> None:
    def full(module: nn.Module, images: tuple[torch.Tensor]) -> None:
        if module.training and len(images[0]) > rows // 2:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    model.register_forward_pre_hook(full)
