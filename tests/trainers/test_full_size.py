"""The published models at the published size, for a few real steps."""

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import sys, tempfile
import numpy as np
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from tests.helpers.tiny import first_rows, training_batches
from semigrid.data.batches import EvalBatches
from semigrid.data.catalog import open_dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.models.create import create_model, input_statistics
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.trial.data import view_settings

method, backbone, labeled, steps = {method!r}, {backbone!r}, {labeled}, {steps}
digits = open_dataset("builtin://digits")
small = {{"steps": steps, "warmup_steps": 1, "batch_size": labeled, "evaluations": 1}}
if method == "semi":
    small |= {{"unlabeled_ratio": 1, "confidence_threshold": 0.0, "collapse_evaluations": 0}}
recipe = resolve(published(method, backbone, small), method, 40, 40)
model = create_model(backbone, 10, recipe, {{}}, False, 0)
before = {{name: p.detach().clone() for name, p in model.named_parameters()}}
views = view_settings(recipe, input_statistics(model))
assert views.img_size == 224
pool = None
if method == "semi":
    table = first_rows(digits, "pool", 40)
    pool = training_batches(table, recipe.pool_batch_size, views, ("weak", "strong"))
streams = Streams(
    training_batches(first_rows(digits, "train", 40), labeled, views, ("strong",)),
    pool,
    EvalBatches(first_rows(digits, "val", 2), views, 2),
    views,
)
runtime = Runtime(Checkpoints(open_storage(tempfile.mkdtemp())), device="cpu")
how = {{"class_shares": np.ones(10), "seed": 0}}
outcome = train(Training(recipe, method, model, None, streams, runtime, **how))
assert outcome.status == "finished" and outcome.step == steps, outcome
moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
assert len(moved) == len(before), set(before) - set(moved)
"""


@pytest.mark.parametrize(
    ("method", "backbone", "labeled", "steps"),
    # a ResNet's branches start at zero: some of its parameters move at the third step only
    [("semi", "vit_base_patch16_224.mae", 1, 2), ("finetune", "resnet18.tv_in1k", 4, 3)],
)
def test_real_steps(method: str, backbone: str, labeled: int, steps: int) -> None:
    tests = str(Path(__file__).parents[2])
    code = STEPS.format(tests=tests, method=method, backbone=backbone, labeled=labeled, steps=steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
