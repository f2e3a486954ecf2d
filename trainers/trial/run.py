"""Trains or evaluates one trial, from its job to its files."""

from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.storage import FileFacts
from semigrid.trainers.evaluation.evaluate import evaluate
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import predictions_file, weights_file
from semigrid.trainers.loop.outcome import Outcome
from semigrid.trainers.loop.train import train
from semigrid.trainers.loop.training import Training
from semigrid.trainers.methods import Fitted, Method, Stepped, find_method
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.soft_targets.read import open_soft_targets
from semigrid.trainers.trial.data import (
    dataset_of,
    evaluation_batches,
    open_streams,
    view_settings,
)
from semigrid.trainers.trial.fit import fit_trial
from semigrid.trainers.trial.job import TrialJob
from semigrid.trainers.trial.model import finished_model, load_weights, start_model, take_weights


def run_trial(job: TrialJob, runtime: Runtime) -> Outcome:
    """Trains a trial to its end, or to a stop, in its method's way.

    A finished training's best weights are at ``weights_file(spec.id)`` in the experiment's folder
    before this returns; the checkpoints stay until the ledger has the result.

    Raises:
        DamagedFilesError: the parent's weights, or soft targets, are not as they were written.
        InputError: this machine has another version of the method than the plan was made with.
    """
    torch.set_num_threads(job.options.cpus_per_worker)
    spec, method = job.spec, find_method(job.spec.method)
    if method.version != spec.method_version:
        raise InputError(
            f"the plan was made with version {spec.method_version} of method {spec.method}, this "
            f"machine has version {method.version}: install the same version of its package on "
            "every node"
        )
    return learn(method, job, runtime)


@singledispatch
def learn(method: Method[Any], job: TrialJob, runtime: Runtime) -> Outcome:
    """Trains a trial as its kind of method does; each kind is registered below."""
    raise NotImplementedError(type(method).__name__)


@learn.register(Stepped)
def _by_steps(method: Stepped[Any], job: TrialJob, runtime: Runtime) -> Outcome:
    spec, place, dataset = job.spec, job.place, dataset_of(job)
    recipe = spec.recipe
    assert isinstance(recipe, SteppedRecipe)
    model = start_model(spec, dataset.num_classes, place.weights_uri)
    teacher_state = None
    if spec.parent is not None:
        parent = load_weights(spec.parent, place, model)
        if recipe.adapter is None:
            take_weights(model, parent, "student", spec.parent, place)
            teacher_state = parent["ema"]
        else:  # the two share a frozen backbone
            take_weights(model, parent, job.parent_network, spec.parent, place)
    views = view_settings(recipe, input_statistics(model))
    streams = open_streams(job, views, runtime)
    if spec.teachers:
        streams = replace(streams, soft_targets=open_soft_targets(job, runtime))
    training = Training(
        recipe,
        spec.method,
        model,
        teacher_state,
        streams,
        runtime,
        class_shares=dataset.manifest.class_shares,
        seed=spec.seed,
        precision=spec.precision,
        options=job.options,
        metric=spec.metric,
    )
    outcome = train(training, job.cutoffs, job.report_seconds)
    if outcome.status == "finished" and runtime.rank == 0:
        best = training.best_weights()
        place.storage.write(weights_file(spec.id), best)
        outcome.weights_file = FileFacts.of(best)
    return outcome


learn.register(Fitted)(fit_trial)


def evaluate_trial(
    job: TrialJob, weights: str, runtime: Runtime
) -> tuple[dict[str, float], FileFacts]:
    """Evaluates a finished trial on test and writes its prediction table.

    Returns the metrics and the facts of the table's file. The table holds image id, true class, the
    probability of every class in float64, and the dataset's slices. Raises ``DamagedWeightsError``
    if the trial's weights are not as they were written.
    """
    torch.set_num_threads(job.options.cpus_per_worker)
    spec, dataset = job.spec, dataset_of(job)
    model = finished_model(spec, job.place, dataset.num_classes, weights).to(runtime.device)
    views = view_settings(spec.recipe, input_statistics(model))
    processes = job.options.loader_processes
    batches = evaluation_batches(dataset, "test", views, runtime, loader_processes=processes)
    predictions = evaluate(model, batches, views, runtime)
    predictions = replace(predictions, slices=_slices(dataset, predictions.ids))
    content = predictions.encode()
    job.place.storage.write(predictions_file(spec.id), content)
    metrics = predictions.metrics(dataset.manifest.class_shares, spec.logit_adjustment)
    return metrics, FileFacts.of(content)


def _slices(dataset: Dataset, ids: list[str]) -> dict[str, list[str | None]]:
    """The test images' slice columns, in the order of ``ids``."""
    stored = dataset.column("test", "image_id").to_pylist()
    slices = {}
    for name in dataset.manifest.slices:
        values = dict(zip(stored, dataset.column("test", name).to_pylist(), strict=True))
        slices[name] = [values[image_id] for image_id in ids]
    return slices
