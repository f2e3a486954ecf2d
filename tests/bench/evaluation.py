"""Evaluations of student and teacher on val: decoded once, beside decoded in every pass."""

import os
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
from semigrid.data.views.augment import ViewSettings, make_view
from semigrid.data.views.render import decode
from semigrid.trainers.evaluation.evaluate import eval_mode, evaluate_all
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.trial.data import EVALUATION_BATCH

IMAGES, SIZE, CLASSES, EVALUATIONS = 4350, 256, 10, 3
VIEWS = ViewSettings(img_size=SIZE * 7 // 8)

# The probabilities (N, K) of each network, by its name.
Found = dict[str, np.ndarray]


def photographs_for_val() -> ImageTable:
    encoded = photographs(DIFFERENT, SIZE)
    ids = [f"{number:05d}" for number in range(IMAGES)]
    images = [encoded[number % DIFFERENT] for number in range(IMAGES)]
    return ImageTable(ids, images, np.arange(IMAGES) % CLASSES)


def small_network(seed: int) -> nn.Module:
    """One that takes as little of the host as a network on a GPU does."""
    torch.manual_seed(seed)
    patches = (VIEWS.img_size // 32) ** 2
    return nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * patches, CLASSES))


def decoded_in_each_pass(models: dict[str, nn.Module], table: ImageTable) -> Found:
    """The plain way: a pass for each network, which decodes for itself."""
    mean, std = (torch.tensor(of).view(1, 3, 1, 1) * 255 for of in (VIEWS.mean, VIEWS.std))
    found = {}
    for name, model in models.items():
        parts = []
        with eval_mode(model), torch.inference_mode():
            for start in range(0, IMAGES, EVALUATION_BATCH):
                rows = range(start, min(start + EVALUATION_BATCH, IMAGES))
                images = [decode(table.images[row], table.ids[row]) for row in rows]
                views = np.stack([make_view(image, VIEWS, "eval", 0) for image in images])
                batch = torch.from_numpy(np.ascontiguousarray(views))
                logits = model((batch.float() - mean) / std)
                parts.append(logits.double().softmax(dim=1).cpu().numpy())
        found[name] = np.concatenate(parts)
    return found


def timed(evaluate: Callable[[], Found]) -> tuple[np.ndarray, np.ndarray, Found]:
    """Seconds of each of several evaluations, those of processors, and what the last one found."""
    seconds, of_processors = [], []
    for _ in range(EVALUATIONS):
        # all processes', also of those that have ended
        started, before = time.perf_counter(), sum(os.times()[:4])
        found = evaluate()
        seconds.append(time.perf_counter() - started)
        of_processors.append(sum(os.times()[:4]) - before)
    return np.array(seconds), np.array(of_processors), found


def evaluation_times() -> Iterator[tuple[str, str, str]]:
    torch.set_num_threads(1)
    table = photographs_for_val()
    models = {name: small_network(seed) for seed, name in enumerate(("student", "ema"))}
    runtime = Runtime(Checkpoints(open_storage(tempfile.mkdtemp())), device="cpu")
    before, of_processors, expected = timed(lambda: decoded_in_each_pass(models, table))
    plain = f"{_sum_of(before)} s, of processors {_sum_of(of_processors)} s"
    yield "a pass for each network, each decodes", plain, ""
    for processes in (0, PROCESSES):
        batches = EvalBatches(table, VIEWS, EVALUATION_BATCH, loader_processes=processes)

        def once(batches: EvalBatches = batches) -> Found:
            found = evaluate_all(models, batches, VIEWS, runtime)
            return {name: each.probabilities for name, each in found.items()}

        with batches.kept():
            *both, found = timed(once)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        shares = [
            now.sum() / then.sum() for now, then in zip(both, (before, of_processors), strict=True)
        ]
        what = f"one pass, decoded once, {processes} loader processes"
        ours = f"{_sum_of(both[0])} s, of processors {_sum_of(both[1])} s"
        yield what, f"{ours}: {shares[0]:.2f} and {shares[1]:.2f} of that", "at most 0.33"


def _sum_of(seconds: np.ndarray) -> str:
    return f"{' + '.join(f'{each:.1f}' for each in seconds)} = {seconds.sum():.1f}"
