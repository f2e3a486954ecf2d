"""The unlabelled stream on Ray Data: read, decoded and augmented in order, in bounded memory."""

import math
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.exceptions import RayError
from torch.utils.dlpack import from_dlpack

from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import ImageTable, RowGroup, read_row_group
from semigrid.data.storage import Storage
from semigrid.data.views.augment import ViewName, ViewSettings
from semigrid.data.views.render import Batch, render

# Tasks of one execution at most. Ray keeps a record of every task and block of an execution, so a
# longer run is several executions in a row.
MAX_TASKS = 500
# Bytes of views that a task makes, and those that it hands on at a time, at least and at most. Ray
# Data looks for news ten times a second: a shorter task leaves its CPU idle, and one that hands on
# many small blocks is held up. A block is whole batches, which need not be copied then, or a part
# of a large one.
TASK_BYTES, BLOCK_BYTES, MOST_BLOCK_BYTES = 256 * 2**20, 16 * 2**20, 64 * 2**20
# Longest time until the node of a failed task is known to lack something, in seconds.
KNOWN_SECONDS = 5.0


@dataclass
class RayBatches:
    """Training batches of a pool of any size, equal to ``MemoryBatches`` of the same order.

    The work of a run is its spans (one row group in one pass) from the start position to the end.
    Ray tasks read a span's row group, decode and augment this rank's rows of it, and the rows
    come back in stream order. Starting at a step reads nothing that came before it. At any time
    the tasks in flight hold one row group each. With N ranks, each reads the row groups that its
    share of a batch lies in, up to N times the pool in all, but decodes only its own images.

    ``nodes`` tells Ray's label selector of the nodes whose CPUs may be used, all of them if None.
    Where it changed since an execution began, one that failed is begun again where it stood: a
    task may have been given to a node that joined and lacks the dataset.
    """

    storage: Storage
    units: list[RowGroup]
    order: StreamOrder
    share: Share
    settings: ViewSettings
    views: tuple[ViewName, ...]
    seed: int
    nodes: Callable[[], dict[str, str] | None] = lambda: None

    def __call__(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Yields the batches of the given steps; the Ray execution ends with the iterator."""
        step = start_step
        while step < stop_step:
            nodes = self.nodes()
            try:
                for batch in self._batches(step, stop_step, nodes):
                    yield batch
                    step += 1
            except RayError:
                if not self._changed(nodes):
                    raise

    def _changed(self, nodes: dict[str, str] | None) -> bool:
        """Whether other nodes may be used now; one that has just joined is soon known to be."""
        deadline = time.monotonic() + KNOWN_SECONDS
        while (changed := self.nodes() != nodes) is False and time.monotonic() < deadline:
            time.sleep(1)
        return changed

    def _batches(
        self, start_step: int, stop_step: int, nodes: dict[str, str] | None
    ) -> Iterator[Batch]:
        start = start_step * self.share.global_batch_size
        stop = stop_step * self.share.global_batch_size
        first = self.order.span_number(start)
        end = self.order.span_number(stop - 1) + 1
        parts = (
            part
            for number in range(first, end, MAX_TASKS * self._spans_per_task)
            for part in self._parts(number, end, start, stop, nodes)
        )
        for batch in rebatch(parts, self.share.local_batch_size):
            yield batch[0] if len(batch) == 1 else Batch.joined(batch)

    @property
    def _view_bytes(self) -> int:
        """Bytes of all views of an image."""
        return len(self.views) * 3 * self.settings.img_size**2

    @property
    def _spans_per_task(self) -> int:
        rows = max(self.order.unit_rows)
        return max(1, TASK_BYTES * self.share.world_size // (rows * self._view_bytes))

    @property
    def _positions_at_once(self) -> int:
        """Positions of the stream that are handed on together: whole batches, or part of one."""
        batch_bytes = self.share.local_batch_size * self._view_bytes
        if batch_bytes > MOST_BLOCK_BYTES:
            return max(1, MOST_BLOCK_BYTES // self._view_bytes)
        return self.share.global_batch_size * max(1, BLOCK_BYTES // batch_bytes)

    def _parts(
        self, first: int, end: int, start: int, stop: int, nodes: dict[str, str] | None
    ) -> Iterator[Batch]:
        """This rank's rows of the spans from ``first`` on, as many as one execution takes."""
        end = min(end, first + MAX_TASKS * self._spans_per_task)
        tasks = -(-(end - first) // self._spans_per_task)
        spans = ray.data.from_items(list(range(first, end)), override_num_blocks=tasks)
        context = spans.context  # a copy: other datasets of this process keep their settings
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        context.execution_options.label_selector = nodes
        context.raise_original_map_exception = True
        context.target_max_block_size = 1  # hand every row of ours on at once: it is a whole block
        rendered = spans.map_batches(
            self._render_spans,
            batch_size=1,
            fn_kwargs={"start": start, "stop": stop, "at_once": self._positions_at_once},
        )
        blocks = rendered.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)
        return map(partial(_unpack, self.views, self.settings.img_size), blocks)

    def _render_spans(
        self, batch: dict[str, np.ndarray], start: int, stop: int, at_once: int
    ) -> Iterator[pa.Table]:
        torch.set_num_threads(1)
        for number in batch["item"]:
            yield from self._render_span(int(number), start, stop, at_once)

    def _render_span(self, number: int, start: int, stop: int, at_once: int) -> Iterator[pa.Table]:
        span = self.order.span_at(number)
        group = self.units[span.unit]
        rows = [
            (position, int(row))
            for position, row in enumerate(self.order.rows_of(span), span.start)
            if start <= position < stop and self.share.owns(position)
        ]
        if not rows:
            return
        ids, images = read_row_group(self.storage, group)
        unit = ImageTable(ids, images, np.full(len(ids), -1))
        for _, block in groupby(rows, lambda at: at[0] // at_once):
            places = [(unit, row, span.pass_number) for _, row in block]
            yield _pack(render(places, self.seed, self.settings, self.views))


def rebatch(parts: Iterable[Batch], batch_size: int) -> Iterator[list[Batch]]:
    """Cuts parts of any sizes into those that make a batch each, without copying them."""
    batch: list[Batch] = []
    missing = batch_size
    for part in parts:
        while len(part.ids) >= missing:
            yield [*batch, part[:missing]]
            part, batch, missing = part[missing:], [], batch_size
        if part.ids:
            batch.append(part)
            missing -= len(part.ids)
    assert not batch, "a run's rows make whole batches"


def _pack(batch: Batch) -> pa.Table:
    """A batch as a table of one row, whose views are the batch's own memory."""
    about = pickle.dumps((batch.ids, batch.erasures.tolist(), batch.broken_by_row))
    columns = {"about": pa.array([about], pa.binary())}
    for name, view in batch.views.items():
        columns[name] = _as_value(view.numpy())
    return pa.table(columns)


def _as_value(array: np.ndarray) -> pa.Array:
    ends = pa.py_buffer(np.array([0, array.nbytes]))
    buffers = [None, ends, pa.py_buffer(array)]
    return pa.Array.from_buffers(pa.large_binary(), 1, buffers)


def _unpack(views: tuple[ViewName, ...], size: int, table: pa.Table) -> Batch:
    """The batch again. Its views are Ray's memory, which must not be written."""
    ids, erasures, broken = pickle.loads(table["about"][0].as_py())
    found: dict[ViewName, torch.Tensor] = {}
    for name in views:
        value = table[name].chunk(0)
        shape = (len(ids), 3, size, size)
        levels = pa.Array.from_buffers(pa.uint8(), math.prod(shape), [None, value.buffers()[2]])
        found[name] = from_dlpack(levels).view(shape)
    return Batch(ids, torch.full((len(ids),), -1), found, torch.tensor(erasures), broken)
