"""A trial without steps: a head that is fitted to features of a frozen backbone."""

import contextlib
import time
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from semigrid.data.splits import label_subset
from semigrid.data.storage import FileFacts
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution.checkpoint import encode_weights
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.features.backbone import FrozenBackbone
from semigrid.trainers.features.extract import in_threads, write_parts
from semigrid.trainers.features.store import FeatureStore, Part
from semigrid.trainers.layout import FEATURES, weights_file
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.methods import Fitted
from semigrid.trainers.methods.method import Head
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.models.head import set_head
from semigrid.trainers.probe.curve import draw_order
from semigrid.trainers.trial.data import dataset_of, evaluation_batches, view_settings
from semigrid.trainers.trial.job import TrialJob
from semigrid.trainers.trial.model import start_model


def fit_trial(method: Fitted[Any], job: TrialJob, runtime: Runtime) -> Outcome:
    """Makes the features that the run's folder lacks, fits a head, and evaluates it on val.

    Features are kept for all trials of the run, in parts that ranks share; killed, a trial goes on
    with the parts that it lacks. Rank 0 fits. Student and teacher of the weights are the same.
    """
    spec, dataset, started = job.spec, dataset_of(job), time.monotonic()
    model = start_model(spec, dataset.num_classes, job.place.weights_uri)
    model = model.to(runtime.device).eval()
    rows = label_subset(dataset.train_labels, Fraction(spec.labels))
    root = job.place.storage.folder(FEATURES)
    store = FeatureStore(root, frozen_backbone(job, model, str(runtime.device)), dataset)
    runtime.began(0)
    _make(store, store.parts_with("train", rows), job, runtime)
    head: Head | None = None
    if runtime.rank == 0:
        weights = np.ones(dataset.num_classes)
        if spec.metric == "natural":
            weights = dataset.manifest.class_shares
        head = _fit(method, store, rows, weights, spec.seed, job.options.cpus_per_worker)
    head = runtime.gather(head)[0]
    assert head is not None
    set_head(model, head.weight, head.bias)
    views = view_settings(spec.recipe, input_statistics(model))
    validation = evaluation_batches(
        dataset, "val", views, runtime, Fraction(spec.validation), job.options.loader_processes
    )
    scores = evaluate(model, validation, views, runtime).metrics(dataset.manifest.class_shares)
    both = {f"{net}_{name}": value for net in ("student", "ema") for name, value in scores.items()}
    step = len(rows)
    outcome = Outcome(step=step, best_step=step, best_metrics=scores)
    outcome.history.append({"step": step, **both, "teacher_gap": 0.0, **head.measures})
    outcome.seconds = time.monotonic() - started
    runtime.report({"step": step, "total_steps": step, **outcome.history[-1]})
    if runtime.rank == 0:
        state = model.state_dict()
        twice = {"student": state, "ema": {name: each.clone() for name, each in state.items()}}
        content = encode_weights(twice)
        job.place.storage.write(weights_file(spec.id), content)
        outcome.weights_file = FileFacts.of(content)
    return outcome


def frozen_backbone(job: TrialJob, network: nn.Module, device: str) -> FrozenBackbone:
    """What makes a trial's features: its start, whose key is that of ``semigrid probe``."""
    spec = job.spec
    sha256 = None if job.weights is None else job.weights.sha256
    if spec.weights == "random":
        sha256 = f"random, with seed {spec.seed} and {dataset_of(job).num_classes} classes"
    frozen = FrozenBackbone(
        spec.backbone, spec.recipe, job.place.weights_uri, sha256, spec.backbone_args, device
    )
    return frozen.using(network)


def _make(store: FeatureStore, parts: list[Part], job: TrialJob, runtime: Runtime) -> None:
    """Makes the parts that are missing, each by one rank, in step with one another."""
    lock = store.alone() if runtime.rank == 0 else contextlib.nullcontext()
    with lock:
        lacking = store.missing(["train"]) if runtime.rank == 0 else []
        names = runtime.gather({part.name for part in lacking})[0]
        missing = [part for part in parts if part.name in names]
        total = sum(part.images.count for part in missing)
        reported = time.monotonic()

        def progress(done: int) -> None:
            nonlocal reported
            done = min(done * runtime.world_size, total)
            runtime.stepped(done)
            if time.monotonic() - reported >= job.report_seconds:
                reported = time.monotonic()
                runtime.progress({"step": done, "total_steps": total})

        mine = missing[runtime.rank :: runtime.world_size]
        made = in_threads(store.backbone, mine, job.options.cpus_per_worker)
        with contextlib.closing(made) as blocks:  # whatever happens, none of its threads is left
            written = write_parts(store, mine, blocks, progress)
            for _ in range(0, len(missing), runtime.world_size):
                next(written, None)
                runtime.gather(None)  # no rank waits long for another at the end
        runtime.stepped(total)
    torch.set_num_threads(job.options.cpus_per_worker)  # extraction takes one for each batch


def _fit(
    method: Fitted[Any],
    store: FeatureStore,
    rows: np.ndarray,
    class_weights: np.ndarray,
    seed: int,
    threads: int,
) -> Head:
    """The head for these rows of train; the seed decides their order, as a draw of the curve."""
    ids, features = store.read("train", rows)
    order = draw_order(ids, seed)
    taken, dataset = rows[order], store.dataset
    groups = np.unique(dataset.column("train", "group"), return_inverse=True)[1]
    with threadpool_limits(threads):
        return method.fit(
            features[order], dataset.train_labels[taken], groups[taken], class_weights
        )
