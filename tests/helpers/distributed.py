"""What real worker processes do in ``test_distributed``: N of them, joined by gloo, no Ray."""

import contextlib
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.helpers.tiny import (
    LABELED_IMAGES,
    POOL_IMAGES,
    TEN_CLASSES,
    VAL_IMAGES,
    Died,
    first_rows,
    made_up_targets,
    tiny_beit,
    tiny_model,
    tiny_recipe,
    training_batches,
)

from semigrid.data.batches import EvalBatches
from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import DistributedRuntime
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import find_method, published, resolve
from semigrid.trainers.models.adapter import BypassedError
from semigrid.trainers.models.create import create_model
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe
from semigrid.trainers.trial.data import view_settings

# divides by 1, 2 and 3 workers
TWENTY = {"steps": 20, "evaluations": 20, "batch_size": 12, "drop_path": 0.3}


class Runtime(DistributedRuntime):
    """A worker that can be told in which step to die."""

    dies_in: int | None = None

    def stepped(self, step: int) -> None:
        if step == self.dies_in:
            raise Died


def streams(recipe: SteppedRecipe, method: str, rank: int, world_size: int) -> Streams:
    digits = open_dataset("builtin://digits")
    views = view_settings(recipe, ((0.5,) * 3, (0.5,) * 3))
    where: tuple[int, int, int] = (0, rank, world_size)
    labeled = first_rows(digits, "train", LABELED_IMAGES)
    pool = None
    page = find_method(method)
    if isinstance(recipe, PoolRecipe):
        table = first_rows(digits, "pool", POOL_IMAGES)
        pool = training_batches(table, recipe.pool_batch_size, views, page.pool_views, *where)
    return Streams(
        training_batches(labeled, recipe.batch_size, views, page.labeled_views, *where),
        pool,
        EvalBatches(first_rows(digits, "val", VAL_IMAGES), views, 4, rank, world_size),
        views,
        labeled.labels,
        made_up_targets if page.soft_targets else None,
    )


def trained(
    runtime: Any,
    method: str,
    recipe: SteppedRecipe,
    model: torch.nn.Module | None = None,
    **settings: Any,
) -> Outcome:
    return train(
        Training(
            recipe,
            method,
            tiny_model(recipe) if model is None else model,
            None,
            streams(recipe, method, runtime.rank, runtime.world_size),
            runtime,
            class_shares=TEN_CLASSES,
            seed=0,
            **settings,
        )
    )


def twenty_steps(folder: Path) -> dict[str, Any]:
    """Histories of 20 steps of each method, whole and, of two workers, in micro-batches."""
    micro_batches = (None, 5) if dist.get_world_size() == 2 else (None,)
    found: dict[str, Any] = {}
    for method in ("finetune", "semi", "fixmatch", "distill"):
        recipe = tiny_recipe(method, **TWENTY)
        for micro_batch in micro_batches:
            name = f"{method} {micro_batch}"
            runtime = Runtime(Checkpoints(open_storage(folder / name)))
            found[name] = trained(
                runtime, method, recipe, options=TrainOptions(micro_batch=micro_batch)
            ).history
    adjusted = tiny_recipe("semi", **TWENTY, logit_adjustment=1)
    runtime = Runtime(Checkpoints(open_storage(folder / "adjusted")))
    found["semi adjusted"] = trained(runtime, "semi", adjusted).history
    return found


def adapted(folder: Path) -> dict[str, Any]:
    """The history of 20 steps of a student with an adapter."""
    recipe = tiny_recipe("semi", **TWENTY, adapter={"kind": "lora", "rank": 4})
    runtime = Runtime(Checkpoints(open_storage(folder)))
    return {"history": trained(runtime, "semi", recipe).history}


def bypassed(folder: Path) -> dict[str, Any]:
    """What each rank says of an adapter that learns nothing."""
    recipe = tiny_recipe("finetune", **TWENTY, adapter={"kind": "lora"})
    runtime = Runtime(Checkpoints(open_storage(folder)))
    said = ""
    try:
        trained(runtime, "finetune", recipe, tiny_beit(recipe))
    except BypassedError as error:
        said = str(error)
    return {"said": runtime.gather(said)}


def interrupted(folder: Path) -> dict[str, Any]:
    """A semi run of 12 steps, whole, and in 12 pieces of one step."""
    recipe = tiny_recipe("semi", steps=12, drop_path=0.3)
    whole = Checkpoints(open_storage(folder / "whole"))
    outcome = trained(Runtime(whole), "semi", recipe)
    parts = Checkpoints(open_storage(folder / "parts"))
    every = TrainOptions(checkpoint_seconds=0)
    for step in range(1, 12):
        torch.seed()
        runtime = Runtime(parts)
        runtime.dies_in = step + 1
        with contextlib.suppress(Died):
            trained(runtime, "semi", recipe, options=every)
    last = trained(Runtime(parts), "semi", recipe)
    return {
        "states": [whole.load(), parts.load()],
        "resumed_at": last.resumed_at,
        "same": replace(outcome, seconds=0) == replace(last, seconds=0),
    }


def out_of_memory(folder: Path) -> dict[str, Any]:
    """Losses of a run in which the last rank's memory holds three images."""
    recipe = tiny_recipe("semi", **TWENTY | {"steps": 4, "evaluations": 4})
    return _short_of_memory(folder, recipe, tiny_model)


def out_of_memory_with_buffers(folder: Path) -> dict[str, Any]:
    """As ``out_of_memory``, for a model with buffers."""
    recipe = tiny_recipe("semi", **TWENTY | {"steps": 3, "evaluations": 3, "img_size": 32})
    return _short_of_memory(folder, recipe, tiny_swin)


def tiny_swin(recipe: SteppedRecipe) -> torch.nn.Module:
    """A model with buffers, and none of them statistics."""
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (1, 1)}
    args = sizes | {"num_heads": (1, 2)}
    return create_model("swin_tiny_patch4_window7_224", 10, recipe, args, False, 0)


def _short_of_memory(
    folder: Path, recipe: SteppedRecipe, make: Callable[[SteppedRecipe], torch.nn.Module]
) -> dict[str, Any]:
    checkpoints = [Checkpoints(open_storage(folder / name)) for name in ("plain", "short")]
    plain = trained(Runtime(checkpoints[0]), "semi", recipe, make(recipe))
    model = make(recipe)
    last = dist.get_rank() == dist.get_world_size() - 1

    def full(module: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        if module.training and last and len(args[0]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory (on purpose)")

    model.register_forward_pre_hook(full)
    short = trained(Runtime(checkpoints[1]), "semi", recipe, model)
    return {"plain": plain.history, "short": short.history, "speed": short.speed}


def batch_statistics(folder: Path) -> dict[str, Any]:
    """A ResNet's best metrics, and its weights as rank 0 saved them."""
    settings = {"steps": 4, "batch_size": 12, "img_size": 32, "evaluations": 2, "hflip": 0}
    recipe = resolve(published("finetune", "resnet18", settings), "finetune", LABELED_IMAGES, 0)
    checkpoints = Checkpoints(open_storage(folder))
    model = create_model("test_resnet", 10, recipe, {}, False, 0)
    outcome = trained(Runtime(checkpoints), "finetune", recipe, model)
    # they are there once rank 0, which writes them, has ended its training
    weights = checkpoints.best_weights() if dist.get_rank() == 0 else None
    return {"best": outcome.best_metrics, "which": outcome.best_weights, "weights": weights}


JOBS: dict[int, list[Callable[[Path], dict[str, Any]]]] = {
    2: [
        twenty_steps,
        adapted,
        bypassed,
        interrupted,
        out_of_memory,
        out_of_memory_with_buffers,
        batch_statistics,
    ],
    3: [twenty_steps],
}


def work(rank: int, world_size: int, folder: str) -> None:
    """One worker process: does all jobs of its world size and writes what came out."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meet", None, world_size, rank)
    for job in JOBS[world_size]:
        dist.barrier()
        found = job(Path(folder) / job.__name__)
        if rank == 0:
            torch.save(found, f"{folder}/{job.__name__}.pt")
    dist.destroy_process_group()
