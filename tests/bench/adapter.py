"""What learns, and what a checkpoint takes, of ViT-B with LoRA and in full.

``python -m tests.bench.adapter`` takes one step of each, with random weights.
"""

import tempfile
from typing import Any

import numpy as np

from semigrid.data.batches import EvalBatches, MemoryBatches
from semigrid.data.catalog import open_dataset
from semigrid.data.order import Share, StreamOrder
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import LATEST_CHECKPOINT
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model, input_statistics
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.data import view_settings

BACKBONE = "vit_base_patch16_224.mae"


def measure(folder: str, own: dict[str, Any]) -> str:
    digits = open_dataset("builtin://digits")
    short = {"steps": 1, "warmup_steps": 0, "batch_size": 2, "evaluations": 1}
    recipe = resolve(published("finetune", BACKBONE, short | own), "finetune", 40, 0)
    assert isinstance(recipe, SteppedRecipe)
    model = create_model(BACKBONE, 10, recipe, {}, False, 0)
    views = view_settings(recipe, input_statistics(model))
    rows = digits.read("train", np.arange(40))
    labeled = MemoryBatches(rows, StreamOrder([40], 0), Share(2, 0, 1), views, ("strong",), 0)
    validation = EvalBatches(digits.read("val", np.arange(2)), views, 2)
    streams = Streams(labeled, None, validation, views)
    runtime = Runtime(Checkpoints(open_storage(folder)), device="cpu")
    shares = np.full(10, 0.1)
    training = Training(
        recipe, "finetune", model, None, streams, runtime, class_shares=shares, seed=0
    )
    train(training)
    parameters = list(training.networks.student.parameters())
    learn = sum(each.numel() for each in parameters if each.requires_grad)
    checkpoint = open_storage(folder).size(LATEST_CHECKPOINT) or 0
    return (
        f"{learn:,} of {sum(each.numel() for each in parameters):,} parameters learn; a checkpoint "
        f"takes {checkpoint / 1e6:,.1f} MB, the best weights beside it "
        f"{len(runtime.checkpoints.best_weights()) / 1e6:,.1f} MB"
    )


def main() -> None:
    for name, own in {"LoRA": {"adapter": {"kind": "lora"}}, "all weights": {}}.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: {measure(folder, own)}", flush=True)


if __name__ == "__main__":
    main()
