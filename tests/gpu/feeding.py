"""The same steps, fed from a dataset on disk: in memory and through Ray Data."""

import os
from collections.abc import Iterator

from tests.bench.stream import photographs_at, running_ray
from tests.gpu.parts import Line, Setup
from tests.gpu.speed import bf16_training, recipe_of, sizes
from tests.gpu.stopwatch import CLASSES, Stopwatch, Switched, TimedTraining, new_model, resident

from semigrid.data.catalog import open_dataset
from semigrid.data.schema import Dataset, Split
from semigrid.trainers.loop.streams import Streams
from semigrid.trainers.methods import find_method
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial.data import open_streams, view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob

CORES = len(os.sched_getaffinity(0))
# Largest share of the time that a device may wait for images.
MOST_IDLE = 0.05
LEAST_RATE = 0.95


def dataset_of(setup: Setup) -> Dataset:
    """Generated photographs on disk, made by whichever part needs them first."""
    folder = setup.folder / "photographs"
    if (folder / "dataset.json").exists():
        return open_dataset(str(folder))
    images, size, different = (40, 48, 8) if setup.tiny else (8192, 256, 512)
    counts: dict[Split, int]
    counts = {"pool": images, "train": images // 4, "val": images // 4, "test": 1}
    return photographs_at(str(folder), counts, size, different, CLASSES)


def job_of(
    setup: Setup, method: str, recipe: SteppedRecipe, dataset: Dataset, options: TrainOptions
) -> TrialJob:
    spec = TrialSpec(
        dataset=dataset.manifest.fingerprint,
        labels="1",
        pool_images=dataset.rows_in("pool") if method == "semi" else None,
        backbone=sizes(setup)[0],
        backbone_args={},
        weights="random",
        method=method,
        method_version=find_method(method).version,
        recipe=recipe,
        precision="bf16",
        seed=0,
        parent=None,
    )
    place = Place(dataset.storage.uri, str(setup.folder / "experiment"))
    return TrialJob(spec=spec, place=place, options=options)


def from_disk(
    setup: Setup, method: str, training: TimedTraining, dataset: Dataset, options: TrainOptions
) -> Streams:
    """The streams that a trial of this dataset has."""
    job = job_of(setup, method, training.recipe, dataset, options)
    views = view_settings(training.recipe, input_statistics(training.networks.student))
    return open_streams(job, views, training.runtime)


def feeding(setup: Setup) -> Iterator[Line]:
    """Semi of ViT-B/16, everything kept, compiled, fed from the pool in memory."""
    gpus = int(setup.device == "cuda")
    options = TrainOptions(stream="memory", cpus_per_worker=CORES, gpus_per_worker=gpus)
    yield from fed(f"from memory, {options.loader_processes} loaders", setup, options)


def streaming(setup: Setup) -> Iterator[Line]:
    """The same, fed by Ray Data from the pool on disk."""
    with running_ray(max(1, CORES - 1)):
        yield from fed("through Ray Data", setup, TrainOptions(stream="ray"))


def fed(what: str, setup: Setup, options: TrainOptions) -> Iterator[Line]:
    """Images/s beside those of a step whose images are always the same, and the device's wait."""
    dataset = dataset_of(setup)
    recipe = recipe_of("semi", setup).model_copy(update={"confidence_threshold": 0.0})
    streams = Switched.of(resident("semi", recipe, new_model(sizes(setup)[0], recipe)))
    training = bf16_training("semi", recipe, setup, streams, compiled=not setup.tiny)
    images = training.rows_per_step - recipe.batch_size
    same = images / training.run_for(0.1 if setup.tiny else 4.0)
    yield Line("the same images always", f"{same:,.0f} images/s", values={"rate": same})
    streams.sources.append(from_disk(setup, "semi", training, dataset, options))
    # most of the steps are not those whose batches lay ready when the clock started
    rate = images / training.run_for(0.1 if setup.tiny else 20.0, least=2 if setup.tiny else 20)
    runtime = training.runtime
    assert isinstance(runtime, Stopwatch)
    idle = training.idle_seconds(runtime.steps)
    share = idle / runtime.seconds
    values = {"images_per_s": rate, "idle_seconds": idle, "seconds": runtime.seconds}
    judged = setup.goal(f"{LEAST_RATE * same:,.0f} at least", rate >= LEAST_RATE * same)
    yield Line(what, f"{rate:,.0f} images/s", *judged, values)
    judged = setup.goal(f"{MOST_IDLE:.0%} at most", share <= MOST_IDLE)
    found = f"{idle:.1f} of {runtime.seconds:.1f} s, {share:.0%}"
    yield Line("… the device waited", found, *judged)
