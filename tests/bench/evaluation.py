"""Evaluations of student and teacher on val: decoded once, beside decoded in every pass."""

import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from tests.bench.stream import DIFFERENT, PROCESSES, photographs
from torch import nn

from semigrid.data.batches import EvalBatches
from semigrid.data.schema import ImageTable
from semigrid.data.storage import open_storage
from semigrid.data.views.augment import ViewSettings, make_view, normalize
from semigrid.data.views.render import decode
from semigrid.trainers.evaluation.evaluate import eval_mode, evaluate_all
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.trial.data import EVALUATION_BATCH

IMAGES, SIZE, CLASSES, EVALUATIONS = 4350, 256, 10, 3
VIEWS = ViewSettings(img_size=SIZE * 7 // 8)
# small, so that decoding is to the network what it is on a machine with a GPU
VIT = "vit_tiny_patch16_224"
VIT_ARGS = {"patch_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}

# The probabilities (N, K) of each network, by its name.
Found = dict[str, np.ndarray]


def photographs_for_val() -> ImageTable:
    encoded = photographs(DIFFERENT, SIZE)
    ids = [f"{number:05d}" for number in range(IMAGES)]
    images = [encoded[number % DIFFERENT] for number in range(IMAGES)]
    return ImageTable(ids, images, np.arange(IMAGES) % CLASSES)


def decoded_in_each_pass(models: dict[str, nn.Module], table: ImageTable) -> Found:
    """The plain way: a pass for each network, which decodes for itself."""
    found = {}
    for name, model in models.items():
        parts = []
        with eval_mode(model), torch.inference_mode():
            for start in range(0, IMAGES, EVALUATION_BATCH):
                rows = range(start, min(start + EVALUATION_BATCH, IMAGES))
                images = [decode(table.images[row], table.ids[row]) for row in rows]
                views = [make_view(image, VIEWS, "eval", 0) for image in images]
                batch = torch.from_numpy(np.ascontiguousarray(np.stack(views)))
                logits = model(normalize(batch, VIEWS))
                parts.append(logits.double().softmax(dim=1).cpu().numpy())
        found[name] = np.concatenate(parts)
    return found


def timed(evaluate: Callable[[], Found]) -> tuple[list[float], Found]:
    """Seconds of each of several evaluations, and what the last one found."""
    seconds = []
    for _ in range(EVALUATIONS):
        started = time.perf_counter()
        found = evaluate()
        seconds.append(time.perf_counter() - started)
    return seconds, found


def evaluation_times() -> Iterator[tuple[str, str, str]]:
    torch.set_num_threads(2)
    table = photographs_for_val()
    recipe = resolve(published("finetune", VIT, {}), "finetune", CLASSES, 0)
    models = {
        name: create_model(VIT, CLASSES, recipe, VIT_ARGS, False, seed)
        for seed, name in enumerate(("student", "ema"))
    }
    runtime = Runtime(Checkpoints(open_storage(tempfile.mkdtemp())), device="cpu")
    before, expected = timed(lambda: decoded_in_each_pass(models, table))
    yield "a pass for each network, each decodes", _listed(before), ""
    for processes in (0, PROCESSES):
        batches = EvalBatches(table, VIEWS, EVALUATION_BATCH, loader_processes=processes)

        def once(batches: EvalBatches = batches) -> Found:
            found = evaluate_all(models, batches, VIEWS, runtime)
            return {name: each.probabilities for name, each in found.items()}

        with batches.kept():
            seconds, found = timed(once)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        share = sum(seconds) / sum(before)
        what = f"one pass, decoded once, {processes} loader processes"
        yield what, f"{_listed(seconds)}: {share:.2f} of the time", "at most 0.33"


def _listed(seconds: list[float]) -> str:
    return f"{sum(seconds):.1f} s ({' + '.join(f'{each:.1f}' for each in seconds)})"
