"""Prediction by Ray Data: images are read, decoded and answered for in order, in bounded memory."""

import logging
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.grid.cluster.machines import Machine
from semigrid.grid.predict.abstain import at_threshold, calibrate
from semigrid.grid.predict.folder import PredictionFolder, Request, right_on
from semigrid.grid.predict.images import Part, of_dataset
from semigrid.grid.predict.inference import Answers, Model, Predictor, Views, join, make_views
from semigrid.grid.run.room import cluster_machines
from semigrid.grid.run.start import start_ray

# One execution serves so many tasks: Ray keeps a record of each and of its blocks.
MAX_TASKS = 500
# So often a task whose process died is done again; Ray's own way, for ever, would never end with
# an image that kills its decoder.
RETRIES = 3
VAL = "val"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PredictionError(RuntimeError):
    """The prediction broke off for a reason that is not the program's; the parts are kept."""


@dataclass(frozen=True)
class Workers:
    """Processes that hold the model, and what each takes. ``count`` None: as many as there is room
    for."""

    count: int | None
    cpus: float
    gpus: float


def predict_images(
    folder: PredictionFolder,
    model: Model,
    dataset: Dataset,
    request: Request,
    workers: Workers,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes what is missing in the folder, calibrates on the dataset's val first where that was
    not done, and returns the summary.

    ``progress`` is told how many of how many images have their answers. Ray runs on this machine,
    at ``RAY_ADDRESS``, or where it runs in this process already. Raises ``InputError`` for
    workers that do not fit, ``PredictionError`` when processes die.
    """
    missing = folder.missing()
    val: list[Part] = []
    if folder.calibration is None:
        val = of_dataset(dataset, [VAL]).parts
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
            stream = answer([*val, *missing], model, _fitting(workers), note)
            if val:
                _calibrate(folder, dataset, request, [next(stream)[1] for _ in val])
            for part, answers in stream:
                folder.write(part, answers)
    return folder.finish()


def _calibrate(
    folder: PredictionFolder, dataset: Dataset, request: Request, found: list[Answers]
) -> None:
    ids, labels = (dataset.column(VAL, name).to_pylist() for name in ("image_id", "label"))
    confidence, right = right_on(found, dict(zip(ids, labels, strict=True)))
    if request.threshold is not None:
        folder.start(at_threshold(confidence, right, request.threshold))
    else:
        assert request.accuracy is not None
        folder.start(calibrate(confidence, right, request.accuracy))


def answer(
    parts: Sequence[Part], model: Model, workers: Workers, note: Callable[[int], None]
) -> Iterator[tuple[Part, Answers]]:
    """Yields each part with the model's answers, in order; one part is held at a time.

    ``note`` is told of every few images that have their answers.
    """
    tasks = [
        part.rows.cut(start, start + model.task_images)
        for part in parts
        for start in range(0, part.count, model.task_images)
    ]
    blocks = (
        block
        for first in range(0, len(tasks), MAX_TASKS)
        for block in _execute(tasks[first : first + MAX_TASKS], model, workers)
    )
    for part in parts:
        found: list[Answers] = []
        left = part.count
        while left:
            found.append(next(blocks))
            left -= len(found[-1].ids)
            note(len(found[-1].ids))
        yield part, join(found)


def _execute(tasks: Sequence[Any], model: Model, workers: Workers) -> Iterator[Answers]:
    """The answers for the rows of each task, in order, by one execution of Ray Data."""
    # each task gets its own rows, not the list of all
    packed = [{"packed": pickle.dumps(rows)} for rows in tasks]
    work = ray.data.from_items(packed, override_num_blocks=len(packed))
    context = work.context  # a copy: other datasets of this process keep their settings
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # hand every row of ours on at once: it is a whole block
    # its errors are raised here; the context sets its loggers up
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # Ray would have retries named otherwise, and has no name for them yet
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


def _stages(work: Any, model: Model, workers: Workers) -> Any:
    """The Ray dataset of answers to that of packed rows."""
    if workers.gpus:
        # the CPUs decode for the GPUs; who holds a GPU takes no CPU from them
        work = work.map_batches(_make_views, batch_size=1, fn_args=(model,), max_retries=RETRIES)
        return work.map_batches(
            _AnswerViews,
            batch_size=1,
            fn_constructor_args=(model,),
            compute=ray.data.ActorPoolStrategy(size=workers.count),
            num_cpus=0,
            num_gpus=workers.gpus,
            max_task_retries=RETRIES,
        )
    return work.map_batches(
        _answer_rows,
        batch_size=1,
        fn_args=(pickle.dumps(model),),
        compute=ray.data.TaskPoolStrategy(size=workers.count),
        num_cpus=workers.cpus,
        max_retries=RETRIES,
    )


def _make_views(batch: dict[str, np.ndarray], model: Model) -> Iterator[pa.Table]:
    for packed in batch["packed"]:
        for made in make_views(pickle.loads(packed), model):  # ours, of a moment ago
            yield _pack(made)


class _AnswerViews:
    """Answers for views that other processes made."""

    def __init__(self, model: Model):
        self.predictor = Predictor(model)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        for packed in batch["packed"]:
            yield _pack(self.predictor(pickle.loads(packed)))


def _answer_rows(batch: dict[str, np.ndarray], model: bytes) -> Iterator[pa.Table]:
    """Reads, decodes and answers in one process: on CPUs, nothing is gained by passing views on."""
    predictor = _predictor(model)
    for packed in batch["packed"]:
        for made in make_views(pickle.loads(packed), predictor.model):
            yield _pack(predictor(made))


@lru_cache(maxsize=1)  # Ray gives its processes one task after the other
def _predictor(model: bytes) -> Predictor:
    return Predictor(pickle.loads(model))


def _pack(made: Views | Answers) -> pa.Table:
    """As one row, into which Ray Data does not look."""
    return pa.table({"packed": pa.array([pickle.dumps(made)], pa.large_binary())})


def _unpack(packed: pa.Scalar) -> Answers:
    found: Answers = pickle.loads(packed.as_buffer())
    return found


def _fitting(workers: Workers) -> Workers:
    """The workers, as many as asked for or as there is room for. Raises ``InputError``."""
    there = cluster_machines()
    most_cpus = max(machine.cpus for machine in there)
    cpus = 0.0 if workers.gpus else min(workers.cpus, most_cpus)
    room = sum(_room(machine, cpus, workers.gpus) for machine in there)
    wanted = 1 if workers.count is None else workers.count
    if room < wanted:
        needs = f"{workers.gpus:g} GPUs" if workers.gpus else f"{cpus:g} CPUs"
        shown = ", ".join(f"{m.cpus:g} CPUs and {m.gpus:g} GPUs" for m in there)
        instead = "--gpus-per-worker 0 to predict on CPUs" if workers.gpus else "fewer --workers"
        raise InputError(
            f"{wanted} × {needs} are needed, and Ray has machines with {shown}; give {instead}"
        )
    return Workers(room if workers.count is None else workers.count, cpus, workers.gpus)


def _room(machine: Machine, cpus: float, gpus: float) -> int:
    """How many workers a machine has room for."""
    by_cpus = machine.cpus // cpus if cpus else float("inf")
    by_gpus = machine.gpus // gpus if gpus else float("inf")
    return int(min(by_cpus, by_gpus))


@contextmanager
def _ray() -> Iterator[None]:
    """Ray for as long as it is needed; one that runs in this process already is left as it is."""
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        start_ray(streaming=False)
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray's core takes them for a crash of its own
        yield
    finally:
        ray.shutdown()
