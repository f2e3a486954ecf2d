"""Prediction with Ray Data: images are read, decoded and classified in order, in bounded memory."""

import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import ray
import ray.data

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.storage import Storage
from semigrid.data.views.augment import ViewSettings
from semigrid.grid.cluster.machines import Demand, take_room
from semigrid.grid.predict.folder import CALIBRATION, PredictionFolder, Summary
from semigrid.grid.predict.images import ImageRange, dataset_images
from semigrid.grid.predict.inference import Block, WinnerModel, make_views
from semigrid.grid.run.ray_logs import keep_ray_logs
from semigrid.grid.run.room import joined_machines
from semigrid.grid.run.start import lost_ray, ray_running
from semigrid.grid.run.supervise import LostRayError
from semigrid.grid.run.surroundings import scratch_folder
from semigrid.trainers.trial.data import EVALUATION_BATCH

# Largest task: long enough for Ray to keep up, short enough to share a few thousand images. Its
# views are in memory at once.
TASK_BYTES, TASK_IMAGES = 64 * 2**20, 8 * EVALUATION_BATCH
# Most tasks of one execution: Ray keeps a record of each and of its blocks.
MAX_TASKS = 500
# Times that a task whose process died is done again; Ray's default, for ever, never ends with an
# image that kills its decoder.
RETRIES = 3


class PredictionError(RuntimeError):
    """The prediction broke off for an outside reason; finished parts are kept."""


def predict_images(
    folder: PredictionFolder,
    dataset: Dataset,
    workers: int | None,
    each: Demand,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Writes the folder's missing parts and returns the summary.

    Calibrates on the dataset's val first, unless that was done before. Ray runs on this machine, at
    ``RAY_ADDRESS``, or where it runs in this process already.

    Args:
        workers: processes that hold the model; None for all that fit.
        each: what a process holds of a machine.
        progress: receives the number of classified images and of all.

    Raises ``InputError`` for workers that do not fit, ``PredictionError`` when processes die, or
    Ray itself: then the ends of its logs are in the folder.
    """
    missing = folder.missing()
    val = {} if folder.calibration else dataset_images(dataset, [CALIBRATION]).parts
    wanted = [*val.values(), *missing.values()]
    total = sum(images.count for images in [*val.values(), *folder.images.parts.values()])
    done = total - sum(images.count for images in wanted)
    progress(done, total)

    def predicted(images: ImageRange) -> Block:
        """The predictions of the next images of the stream."""
        nonlocal done
        made: list[Block] = []
        end = done + images.count
        while done < end:
            made.append(next(blocks))
            done += len(made[-1].ids)
            progress(done, total)
        return Block.joined(made)

    if wanted:
        with _ray(folder.storage):
            # one stream for all: a process that holds the model starts once
            blocks = predict_ranges(wanted, folder.model, _fitting(workers, each))
            if val:
                folder.calibrate(dataset, Block.joined(list(map(predicted, val.values()))))
            for file, images in missing.items():
                folder.write(file, predicted(images))
    return folder.finish()


def predict_ranges(
    ranges: Iterable[ImageRange], model: WinnerModel, workers: Demand
) -> Iterator[Block]:
    """Yields the predictions of all images in order, in blocks that end where a range does."""
    # a power of two of batches, as most row groups: each is read whole for each of its tasks
    batches = TASK_BYTES // (EVALUATION_BATCH * 3 * model.views.img_size**2)
    step = min(TASK_IMAGES, EVALUATION_BATCH << max(0, batches.bit_length() - 1))
    tasks = [
        images.cut(start, start + step)
        for images in ranges
        for start in range(0, images.count, step)
    ]
    for first in range(0, len(tasks), MAX_TASKS):
        yield from _execute(tasks[first : first + MAX_TASKS], model, workers)


def _execute(tasks: Sequence[ImageRange], model: WinnerModel, workers: Demand) -> Iterator[Block]:
    """The predictions of each task, in order, by one execution of Ray Data."""
    # a row for each task, with one pickled object that Ray Data does not look into
    rows = [{"packed": pickle.dumps(images)} for images in tasks]
    work = ray.data.from_items(rows, override_num_blocks=len(rows))
    context = work.context  # a copy: other datasets of this process keep their settings
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    # errors are raised here; the context sets the loggers up
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # deprecated without a successor: Ray has no other name for retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        if workers.gpus:
            # CPUs decode for GPUs; a process with a GPU takes no CPU from them
            work = work.map(_make_views, fn_args=(model.views,), max_retries=RETRIES).map(
                _PredictViews,
                fn_constructor_args=(model,),
                compute=ray.data.ActorPoolStrategy(size=workers.workers),
                num_cpus=0,
                num_gpus=workers.gpus,
                max_task_retries=RETRIES,
            )
        else:
            work = work.map(
                _predict_images,
                fn_args=(pickle.dumps(model),),
                compute=ray.data.TaskPoolStrategy(size=workers.workers),
                num_cpus=workers.cpus,
                max_retries=RETRIES,
            )
    try:
        for row in work.iter_rows():
            yield pickle.loads(row["packed"])
    except ray.exceptions.RayTaskError as error:
        # a shard that is gone or not its own, storage that is away; a GPU without memory
        if isinstance(error.cause, InputError | OSError | RuntimeError):
            why = str(error.cause).splitlines()[0]  # without Ray's hints
            raise PredictionError(why) from error
        raise
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise PredictionError(f"a process died: {words[0]}") from error


def _make_views(row: dict[str, bytes], settings: ViewSettings) -> dict[str, bytes]:
    return {"packed": pickle.dumps(make_views(pickle.loads(row["packed"]), settings))}


class _PredictViews:
    """Classifies views that other processes made."""

    def __init__(self, model: WinnerModel):
        self.model = model

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {"packed": pickle.dumps(self.model.predict(pickle.loads(row["packed"])))}


def _predict_images(row: dict[str, bytes], pickled: bytes) -> dict[str, bytes]:
    """Reads, decodes and classifies in one process: on CPUs, passing views on gains nothing."""
    model = _unpickled(pickled)
    views = make_views(pickle.loads(row["packed"]), model.views)
    return {"packed": pickle.dumps(model.predict(views))}


@lru_cache(maxsize=1)  # Ray gives its processes one task after the other
def _unpickled(model: bytes) -> WinnerModel:
    """The same object each time, so that it loads its weights once."""
    unpickled: WinnerModel = pickle.loads(model)
    return unpickled


def _fitting(workers: int | None, each: Demand) -> Demand:
    """What all workers together hold. Raises ``InputError`` where they do not fit."""
    machines = joined_machines()
    most_cpus = max(1.0, max(machine.cpus for machine in machines))
    each = Demand(0.0 if each.gpus else min(each.cpus, most_cpus), each.gpus)
    free, room = list(machines), 0
    while take_room(free, each):
        room += 1
    if room < (workers or 1):
        instead = "--gpus-per-worker 0 to predict on CPUs" if each.gpus else "fewer --workers"
        raise InputError(
            f"{replace(each, workers=workers or 1)} are needed, and Ray has machines with "
            f"{', '.join(map(str, machines))}; give {instead}"
        )
    return replace(each, workers=workers or room)


@contextmanager
def _ray(kept: Storage) -> Iterator[None]:
    """Runs Ray inside the block; one that this process has started already is left as it is.

    ``kept`` gets the ends of Ray's logs where it or one of its processes dies.
    """
    if ray.is_initialized():
        yield
        return
    with scratch_folder() as scratch:
        try:
            with ray_running(streaming=False, folder=scratch):
                yield
        except (PredictionError, LostRayError) as error:
            if not isinstance(error, LostRayError) and lost_ray(error) is None:
                raise  # Ray did its work
            logs = keep_ray_logs(scratch, kept)
            raise PredictionError(f"{error}; Ray's logs: {logs}" if logs else str(error)) from error
