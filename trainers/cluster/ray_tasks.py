"""Work on images by Ray Data: read, decoded and given to a model in order, in bounded memory."""

import logging
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import ray
import ray.data

from semigrid.data.errors import InputError
from semigrid.data.ranges import Block, ImageRange, make_views, pieces
from semigrid.data.views.augment import ViewSettings
from semigrid.trainers.cluster.ray_nodes import placement
from semigrid.trainers.trial.data import EVALUATION_BATCH

# Largest task: long enough for Ray to keep up, short enough to share a few thousand images. Its
# views are in memory at once.
TASK_BYTES, TASK_IMAGES = 64 * 2**20, 8 * EVALUATION_BATCH
# Most tasks of one execution: Ray keeps a record of each and of its blocks.
MAX_TASKS = 500
# Times that a task whose process died is done again; Ray's default, for ever, never ends with an
# image that kills its decoder.
RETRIES = 3
# What a model makes of a task's views.
Made = TypeVar("Made", bound=Block)
# A model at work on a task's views; one object for all tasks, which loads its weights when it
# first works.
Work = Callable[[Block], Made]
# of views, their settings and, of weak ones, their seed
_Views = tuple[ViewSettings, int | None]


class TaskError(RuntimeError):
    """The work broke off for an outside reason: a process died, storage or a shard is gone."""


@dataclass(frozen=True)
class Workers:
    """Processes that hold the model, and what each holds of its machine."""

    count: int
    cpus: float
    gpus: float


def work_in_order(
    ranges: Iterable[ImageRange],
    views: ViewSettings,
    work: Work[Made],
    workers: Workers,
    weak_seed: int | None = None,
) -> Iterator[Made]:
    """Yields what the model makes of all images, in order, in blocks that end where a range does.

    Ray runs already. Raises ``TaskError``.

    Args:
        weak_seed: the model sees a weak view of each image instead of the evaluation's.
    """
    # a power of two of batches, as most row groups: each is read whole for each of its tasks
    batches = TASK_BYTES // (EVALUATION_BATCH * 3 * views.img_size**2)
    step = min(TASK_IMAGES, EVALUATION_BATCH << max(0, batches.bit_length() - 1))
    tasks = [task for images in ranges for task in pieces(images, step)]
    for first in range(0, len(tasks), MAX_TASKS):
        yield from _execute(tasks[first : first + MAX_TASKS], (views, weak_seed), work, workers)


def _execute(
    tasks: Sequence[ImageRange], views: _Views, work: Work[Made], workers: Workers
) -> Iterator[Made]:
    """The results of each task, in order, by one execution of Ray Data."""
    # a row for each task, with one pickled object that Ray Data does not look into
    items = [{"packed": pickle.dumps(images)} for images in tasks]
    rows = ray.data.from_items(items, override_num_blocks=len(items))
    context = rows.context  # a copy: other datasets of this process keep their settings
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = placement()  # on nodes that lack nothing
    # errors are raised here; the context sets the loggers up
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # deprecated without a successor: Ray has no other name for retries yet
        warnings.simplefilter("ignore", DeprecationWarning)
        if workers.gpus:
            # CPUs decode for GPUs; a process with a GPU takes no CPU from them
            rows = rows.map(_make_views, fn_args=views, max_retries=RETRIES).map(
                _WorkOnViews,
                fn_constructor_args=(work,),
                compute=ray.data.ActorPoolStrategy(size=workers.count),
                num_cpus=0,
                num_gpus=workers.gpus,
                max_task_retries=RETRIES,
            )
        else:
            rows = rows.map(
                _work_on_images,
                fn_args=(pickle.dumps((*views, work)),),
                compute=ray.data.TaskPoolStrategy(size=workers.count),
                num_cpus=workers.cpus,
                max_retries=RETRIES,
            )
    try:
        for row in rows.iter_rows():
            yield pickle.loads(row["packed"])
    except ray.exceptions.RayTaskError as error:
        # a shard that is gone or not its own, storage that is away; a GPU without memory
        if isinstance(error.cause, InputError | OSError | RuntimeError):
            why = str(error.cause).splitlines()[0]  # without Ray's hints
            raise TaskError(why) from error
        raise
    except ray.exceptions.RayError as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise TaskError(f"a process died: {words[0]}") from error


def _make_views(
    row: dict[str, bytes], settings: ViewSettings, weak_seed: int | None
) -> dict[str, bytes]:
    return {"packed": pickle.dumps(make_views(pickle.loads(row["packed"]), settings, weak_seed))}


class _WorkOnViews:
    """Works on views that other processes made."""

    def __init__(self, work: Work[Block]):
        self.work = work

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        return {"packed": pickle.dumps(self.work(pickle.loads(row["packed"])))}


def _work_on_images(row: dict[str, bytes], pickled: bytes) -> dict[str, bytes]:
    """Reads, decodes and works in one process: on CPUs, passing views on gains nothing."""
    settings, weak_seed, work = _unpickled(pickled)
    views = make_views(pickle.loads(row["packed"]), settings, weak_seed)
    return {"packed": pickle.dumps(work(views))}


@lru_cache(maxsize=1)  # Ray gives its processes one task after the other
def _unpickled(pickled: bytes) -> tuple[ViewSettings, int | None, Work[Block]]:
    """The same objects each time, so that a model loads its weights once."""
    unpickled: tuple[ViewSettings, int | None, Work[Block]] = pickle.loads(pickled)
    return unpickled
