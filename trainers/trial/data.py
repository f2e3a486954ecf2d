"""The images of a trial: streams for training, batches for evaluation."""

from dataclasses import fields, replace
from fractions import Fraction
from functools import lru_cache

import numpy as np

from semigrid.data.batches import EvalBatches, MemoryBatches
from semigrid.data.catalog import open_dataset
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import Dataset, ImageTable, RowGroup
from semigrid.data.splits import label_subset
from semigrid.data.views.augment import ViewName, ViewSettings
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.loop.seeds import step_seed
from semigrid.trainers.loop.streams import BatchSource, Streams
from semigrid.trainers.methods import Stepped, find_method
from semigrid.trainers.models.create import Rgb
from semigrid.trainers.options import uses_ray_stream
from semigrid.trainers.recipe import PoolRecipe, Recipe, SteppedRecipe
from semigrid.trainers.trial.job import TrialJob

# Images in one evaluation batch: few, so that several workers share some hundred images evenly.
EVALUATION_BATCH = 64


def dataset_of(job: TrialJob) -> Dataset:
    """The trial's dataset, kept open for the next trials of this process.

    Raises ``RuntimeError`` if it is not the one that the specification names.
    """
    return _open(job.place.dataset_uri, job.spec.dataset)


@lru_cache(maxsize=4)
def _open(uri: str, fingerprint: str) -> Dataset:
    dataset = open_dataset(uri)
    if dataset.manifest.fingerprint != fingerprint:
        raise RuntimeError(f"{uri} changed since the plan was made; run the experiment again")
    return dataset


@lru_cache(maxsize=4)
def _table(dataset: Dataset, split: str, fraction: Fraction = Fraction(1)) -> ImageTable:
    """A split, or the first images of each of its classes, at least one."""
    if fraction == 1:
        return dataset.read(split)
    labels = np.asarray(dataset.column(split, "label"), dtype=np.int64)
    return dataset.read(split, label_subset(labels, fraction))


def view_settings(recipe: Recipe, statistics: tuple[Rgb, Rgb]) -> ViewSettings:
    """The views of a recipe, normalised with the mean and deviation that the weights expect."""
    shared = {field.name for field in fields(ViewSettings)} & type(recipe).model_fields.keys()
    values = {name: getattr(recipe, name) for name in shared}
    return ViewSettings(**values, mean=statistics[0], std=statistics[1])


def evaluation_batches(
    dataset: Dataset,
    split: str,
    views: ViewSettings,
    runtime: Runtime,
    fraction: Fraction = Fraction(1),
    loader_processes: int = 0,
) -> EvalBatches:
    """This rank's batches of a split, kept for the next trial of this process with equal views.

    Below 1, ``fraction`` takes the first images of each class. ``loader_processes`` is as in
    ``EvalBatches``.
    """
    # only the settings that an evaluation view depends on, or no other trial would share them
    names = ("img_size", "interpolation", "mean", "std")
    settings = ViewSettings(**{name: getattr(views, name) for name in names})
    rank = runtime.rank, runtime.world_size
    return _evaluation_batches(dataset, split, settings, *rank, fraction, loader_processes)


@lru_cache(maxsize=4)
def _evaluation_batches(
    dataset: Dataset,
    split: str,
    views: ViewSettings,
    rank: int,
    world_size: int,
    fraction: Fraction,
    loader_processes: int,
) -> EvalBatches:
    table = _table(dataset, split, fraction)
    return EvalBatches(table, views, EVALUATION_BATCH, rank, world_size, loader_processes)


def open_streams(job: TrialJob, views: ViewSettings, runtime: Runtime) -> Streams:
    """The labelled and unlabelled batches of a training by steps, and the val images."""
    spec, dataset, method = job.spec, dataset_of(job), find_method(job.spec.method)
    assert isinstance(method, Stepped) and isinstance(spec.recipe, SteppedRecipe)
    table = dataset.read("train", label_subset(dataset.train_labels, Fraction(spec.labels)))
    labeled = MemoryBatches(
        table,
        StreamOrder([len(table)], spec.seed),
        Share(spec.recipe.batch_size, runtime.rank, runtime.world_size),
        views,
        method.labeled_views,
        spec.seed,
    )
    pool: BatchSource | None = None
    if spec.pool_images is not None:
        assert isinstance(spec.recipe, PoolRecipe)
        share = Share(spec.recipe.pool_batch_size, runtime.rank, runtime.world_size)
        how = share, views, method.pool_views
        if spec.pool == "labeled":
            pool = _labeled_pool(job, table, how)
        else:
            pool = _pool(job, dataset, spec.pool_images, how)
    labels, processes = np.asarray(table.labels), job.options.loader_processes
    share_of_val = Fraction(spec.validation)
    validation = evaluation_batches(dataset, "val", views, runtime, share_of_val, processes)
    return Streams(labeled, pool, validation, views, labels, loader_processes=processes)


# a rank's share of each batch, and the views of its images
_How = tuple[Share, ViewSettings, tuple[ViewName, ...]]


def _pool(job: TrialJob, dataset: Dataset, images: int, how: _How) -> BatchSource:
    units = pool_units(dataset, images)
    order, seed = StreamOrder([unit.rows for unit in units], job.spec.seed), job.spec.seed
    if uses_ray_stream(job.options.stream, dataset):
        from semigrid.data.stream import RayBatches
        from semigrid.trainers.cluster.ray_nodes import placement

        return RayBatches(dataset.storage, units, order, *how, seed, placement)
    return MemoryBatches(_table(dataset, "pool"), order, *how, seed)


def _labeled_pool(job: TrialJob, table: ImageTable, how: _How) -> BatchSource:
    """The labelled images as a pool, in memory as they are, without their labels.

    Seeded for itself: with the trial's own seed, each step's pool would begin with the labelled
    images of that step, in the views that they have there.
    """
    unlabeled = replace(table, labels=np.full(len(table), -1))
    seed = step_seed(job.spec.seed, 0, "labeled pool")
    order = StreamOrder([len(table)], seed)
    return MemoryBatches(unlabeled, order, *how, seed)


def pool_units(dataset: Dataset, rows: int) -> list[RowGroup]:
    """The pool's row groups that make up its first ``rows`` rows, the last one cut to fit."""
    return [
        replace(group, rows=min(group.rows, rows - group.start))
        for group in dataset.row_groups("pool")
        if group.start < rows
    ]
