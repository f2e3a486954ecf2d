"""Prediction with Ray Data: images are read, decoded and classified in order, in bounded memory."""

import logging
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.grid.cluster.machines import Demand, take_room
from semigrid.grid.predict.abstain import at_threshold, calibrate
from semigrid.grid.predict.folder import PredictionFolder
from semigrid.grid.predict.images import ImageRange, OutputPart, dataset_images
from semigrid.grid.predict.inference import (
    PredictedImages,
    Predictor,
    ViewBlock,
    WinnerModel,
    joined,
    make_views,
)
from semigrid.grid.run.room import cluster_machines
from semigrid.grid.run.start import start_ray

# Most tasks of one execution: Ray keeps a record of each and of its blocks.
MAX_TASKS = 500
# Times that a task whose process died is done again; Ray's default, for ever, never ends with an
# image that kills its decoder.
RETRIES = 3
VAL = "val"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PredictionError(RuntimeError):
    """The prediction broke off for an outside reason; finished parts are kept."""


def predict_images(
    folder: PredictionFolder,
    dataset: Dataset,
    workers: int | None,
    each: Demand,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the folder's missing parts and returns the summary.

    Calibrates on the dataset's val first, unless that was done before. Ray runs on this machine, at
    ``RAY_ADDRESS``, or where it runs in this process already.

    Args:
        workers: processes that hold the model; None for all that fit.
        each: what a process holds of a machine.
        progress: receives the number of classified images and of all.

    Raises ``InputError`` for workers that do not fit, ``PredictionError`` when processes die.
    """
    missing = folder.missing()
    val = dataset_images(dataset, [VAL]).parts if folder.calibration is None else []
    total = sum(part.count for part in [*val, *folder.images.parts])
    done = total - sum(part.count for part in [*val, *missing])

    def note(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    note(0)
    if val or missing:
        with _ray():
            # one stream for both: a process that holds the model starts once
            stream = predict_parts([*val, *missing], folder.model, _fitting(workers, each), note)
            if val:
                _calibrate(folder, dataset, joined([next(stream)[1] for _ in val]))
            for part, predicted in stream:
                folder.write(part, predicted)
    return folder.finish()


def _calibrate(folder: PredictionFolder, dataset: Dataset, predicted: PredictedImages) -> None:
    ids, labels = (dataset.column(VAL, name).to_pylist() for name in ("image_id", "label"))
    label_of = dict(zip(ids, labels, strict=True))
    readable = np.array([error is None for error in predicted.errors], dtype=bool)
    labels = np.array([label_of[image_id] for image_id in predicted.ids])
    probabilities = predicted.probabilities[readable]
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels[readable]
    if folder.request.threshold is not None:
        folder.start(at_threshold(confidence, right, folder.request.threshold))
    else:
        assert folder.request.accuracy is not None
        folder.start(calibrate(confidence, right, folder.request.accuracy))


def predict_parts(
    parts: Sequence[OutputPart],
    model: WinnerModel,
    workers: Demand,
    note: Callable[[int], None],
) -> Iterator[tuple[OutputPart, PredictedImages]]:
    """Yields each part with its predictions, in order; memory holds one part at a time.

    ``note`` receives the number of images of each block that is classified.
    """
    tasks = [
        part.images.cut(start, start + model.task_images)
        for part in parts
        for start in range(0, part.count, model.task_images)
    ]
    blocks = (
        block
        for first in range(0, len(tasks), MAX_TASKS)
        for block in _execute(tasks[first : first + MAX_TASKS], model, workers)
    )
    for part in parts:
        of_part: list[PredictedImages] = []
        left = part.count
        while left:
            of_part.append(next(blocks))
            left -= len(of_part[-1].ids)
            note(len(of_part[-1].ids))
        yield part, joined(of_part)


def _execute(
    tasks: Sequence[ImageRange], model: WinnerModel, workers: Demand
) -> Iterator[PredictedImages]:
    """The predictions of each task, in order, by one execution of Ray Data."""
    # each task gets its own images, not the list of all
    packed = [{"packed": pickle.dumps(images)} for images in tasks]
    work = ray.data.from_items(packed, override_num_blocks=len(packed))
    context = work.context  # a copy: other datasets of this process keep their settings
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # pass on every row at once: it is a whole block
    # errors are raised here; the context sets the loggers up
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # deprecated without a successor: Ray has no other name for retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        work = _stages(work, model, workers)
    try:
        for table in work.iter_batches(batch_size=None, batch_format="pyarrow"):
            for packed_one in table["packed"]:
                yield _unpack(packed_one)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):  # a shard that is gone, storage that is away
            why = str(error.cause).splitlines()[0]  # without Ray's hints
            raise PredictionError(why) from error
        raise
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise PredictionError(f"a process died: {words[0]}") from error


def _stages(work: Any, model: WinnerModel, workers: Demand) -> Any:
    """The Ray dataset of predictions for one of packed images."""
    if workers.gpus:
        # CPUs decode for GPUs; a process with a GPU takes no CPU from them
        work = work.map_batches(_make_views, batch_size=1, fn_args=(model,), max_retries=RETRIES)
        return work.map_batches(
            _PredictViews,
            batch_size=1,
            fn_constructor_args=(model,),
            compute=ray.data.ActorPoolStrategy(size=workers.workers),
            num_cpus=0,
            num_gpus=workers.gpus,
            max_task_retries=RETRIES,
        )
    return work.map_batches(
        _predict_images,
        batch_size=1,
        fn_args=(pickle.dumps(model),),
        compute=ray.data.TaskPoolStrategy(size=workers.workers),
        num_cpus=workers.cpus,
        max_retries=RETRIES,
    )


def _make_views(batch: dict[str, np.ndarray], model: WinnerModel) -> Iterator[pa.Table]:
    for packed in batch["packed"]:
        for made in make_views(pickle.loads(packed), model):  # packed by this module
            yield _pack(made)


class _PredictViews:
    """Classifies views that other processes made."""

    def __init__(self, model: WinnerModel):
        self.predictor = Predictor(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for packed in batch["packed"]:
            yield _pack(self.predictor(pickle.loads(packed)))


def _predict_images(batch: dict[str, np.ndarray], model: bytes) -> Iterator[pa.Table]:
    """Reads, decodes and classifies in one process: on CPUs, passing views on gains nothing."""
    predictor = _predictor(model)
    for packed in batch["packed"]:
        for made in make_views(pickle.loads(packed), predictor.model):
            yield _pack(predictor(made))


@lru_cache(maxsize=1)  # Ray gives its processes one task after the other
def _predictor(model: bytes) -> Predictor:
    return Predictor(pickle.loads(model))


def _pack(made: ViewBlock | PredictedImages) -> pa.Table:
    """One row that Ray Data does not look into."""
    return pa.table({"packed": pa.array([pickle.dumps(made)], pa.large_binary())})


def _unpack(packed: pa.Scalar) -> PredictedImages:
    predicted: PredictedImages = pickle.loads(packed.as_buffer())
    return predicted


def _fitting(workers: int | None, each: Demand) -> Demand:
    """What all workers together hold. Raises ``InputError`` where they do not fit."""
    machines = cluster_machines()
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
def _ray() -> Iterator[None]:
    """Runs Ray inside the block; one that this process has started already is left as it is."""
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        start_ray(streaming=False)
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray's core treats them as a crash of its own
        yield
    finally:
        ray.shutdown()
