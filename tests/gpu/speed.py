"""Images per second, and the share of the device's peak, when the data cost nothing."""

import gc
import math
from collections.abc import Iterator

import torch
from tests.gpu.parts import Line, Setup
from tests.gpu.stopwatch import (
    Stopwatch,
    TimedTraining,
    new_model,
    peak_of,
    resident,
    resolved,
    timed_training,
)
from torch import nn

from semigrid.data.storage import open_storage
from semigrid.data.views.augment import normalize
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.models.create import flops_per_image
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe

RATIO = 5
# Shares of the peak, compiled: of an H200, 2,400 and 3,060 unlabelled images/s of semi, everything
# kept. For ViTs of this size on one H100, others have published 16 to 23 % compiled, and 5 to 7 %
# eager, which is the goal there.
GOAL, STRETCH = 0.39, 0.5
PUBLISHED = 0.05


def sizes(setup: Setup) -> tuple[str, int, int]:
    """Backbone, pixels and labelled images in a step."""
    return ("test_vit", 160, 2) if setup.tiny else ("vit_base_patch16_224", 224, 128)


def recipe_of(method: str, setup: Setup) -> SteppedRecipe:
    backbone, size, labeled = sizes(setup)
    settings = {"img_size": size, "batch_size": labeled}
    if method == "semi":
        settings |= {"unlabeled_ratio": RATIO}
    return resolved(method, backbone, settings)


def keeping(
    share: float, recipe: SteppedRecipe, streams: Streams, model: nn.Module, device: str
) -> SteppedRecipe:
    """The recipe whose threshold keeps about this share of the mixed images.

    A mixed image counts where either of its two has the confidence, and they are drawn alike.
    """
    assert streams.pool is not None
    weak = next(streams.pool(0, 1)).views["weak"]
    with torch.inference_mode(), torch.autocast(device, dtype=torch.bfloat16):
        network = model.to(device).eval()
        parts = [normalize(part.to(device), streams.views) for part in torch.split(weak, 64)]
        answers = torch.cat([network(part) for part in parts]).float().softmax(dim=1)
    confidences = answers.max(dim=1).values
    model.to("cpu").train()
    threshold = float(confidences.quantile(math.sqrt(1 - share))) if share < 1 else 0.0
    return recipe.model_copy(update={"confidence_threshold": threshold})


def free_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def bf16_training(
    method: str,
    recipe: SteppedRecipe,
    setup: Setup,
    streams: Streams,
    compiled: bool = False,
    runtime: Runtime | None = None,
) -> TimedTraining:
    backbone, *_ = sizes(setup)
    return timed_training(
        recipe,
        method,
        new_model(backbone, recipe),
        streams,
        runtime
        or Stopwatch(Checkpoints(open_storage(setup.folder / "speed")), device=setup.device),
        precision="bf16",
        options=TrainOptions(compile=compiled),
    )


def speed(setup: Setup) -> Iterator[Line]:
    """ViT-B/16 in bf16: semi with everything and with half kept, finetune; compiled and eager.

    The images of every step are the same and lie in the host's memory as uint8.
    """
    semi, finetune = recipe_of("semi", setup), recipe_of("finetune", setup)
    model = new_model(sizes(setup)[0], semi)
    # those that goals were set for come first: compiling is slow, and the part's time has an end
    cases = [("semi", 1.0, True), ("semi", 1.0, False), ("finetune", 1.0, True)]
    cases += [("finetune", 1.0, False), ("semi", 0.5, True), ("semi", 0.5, False)]
    for method, share, compiled in cases:
        if setup.tiny and compiled:
            continue  # minutes on a CPU
        how = "compiled" if compiled else "eager"
        if setup.left < 25:
            yield Line(f"{method}, {how}, {share:.0%}", "no time is left", verdict="left out")
            continue
        recipe = semi if method == "semi" else finetune
        streams = resident(method, recipe, model)
        if method == "semi":
            recipe = keeping(share, recipe, streams, model, setup.device)
        training = bf16_training(method, recipe, setup, streams, compiled)
        seconds = training.run_for(0.1 if setup.tiny else 4)
        yield _line(method, training, seconds, compiled, setup, model)
        del training
        free_memory(setup.device)


def _line(
    method: str,
    training: TimedTraining,
    seconds: float,
    compiled: bool,
    setup: Setup,
    model: nn.Module,
) -> Line:
    recipe = training.recipe
    pool = training.rows_per_step - recipe.batch_size
    kept = training.averages.of_this_rank("mask_rate") if pool else 0.0
    # a backward costs two forwards; the teacher answers for all of the pool
    forwards = pool + 3 * (recipe.batch_size + kept * pool)
    flops = forwards * (flops_per_image(model, recipe.img_size) or math.nan) / seconds
    rate = (pool or recipe.batch_size) / seconds
    kept_share = f", {kept:.0%} kept" if pool else ""
    what = f"{method}{kept_share}, {'compiled' if compiled else 'eager'}"
    values = {"images_per_s": rate, "flops_per_s": flops, "seconds_per_step": seconds}
    values |= {"kept": kept} if pool else {}
    values |= {"micro_batch": training.stepper.micro_batch or training.rows_per_step}
    peak = peak_of(setup)
    if peak is None:
        return Line(what, f"{rate:,.0f} images/s", values=values)
    share = flops / peak
    values |= {"share_of_peak": share}
    goal = GOAL if compiled else PUBLISHED
    words = f"{goal:.0%} of peak" + (f", stretch {STRETCH:.0%}" if compiled else "")
    found = f"{rate:,.0f} images/s, {share:.1%}"
    return Line(what, found, *setup.goal(words, share >= goal), values)
