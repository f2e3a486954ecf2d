"""The unlabelled stream on Ray Data: one execution for a whole run, in bounded memory."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import ray.data

from data.augment import View, ViewSettings, isolated_random
from data.batches import Batch, Rendered, render, stack
from data.order import Share, StreamOrder
from data.schema import RowGroup
from data.storage import Storage

# Ray keeps a record of every block of an execution: a long run gets several spans to a block.
MAX_BLOCKS = 1000


class RayBatches:
    """Training batches of a pool of any size, equal to ``MemoryBatches`` of the same order.

    The work of a run is its spans (one row group in one pass) from the start position to the end.
    Ray tasks read a span's row group, decode and augment this rank's rows of it, and the rows
    come back in stream order. Starting at a step reads nothing that came before it. At any time
    the tasks in flight hold one row group each. With N ranks, each reads the row groups that its
    share of a batch lies in, up to N times the pool in all, but decodes only its own images.
    """

    def __init__(
        self,
        storage: Storage,
        units: list[RowGroup],
        order: StreamOrder,
        share: Share,
        settings: ViewSettings,
        views: tuple[View, ...],
        seed: int,
    ):
        self.storage = storage
        self.units = units
        self.order = order
        self.share = share
        self.settings = settings
        self.views = views
        self.seed = seed

    def __call__(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Yields the batches of the given steps; the Ray execution ends with the iterator."""
        start = start_step * self.share.global_batch_size
        stop = stop_step * self.share.global_batch_size
        first = self.order.span_number(start)
        count = self.order.span_number(stop - 1) + 1 - first
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        # one span's rows per output block: else Ray gathers 128 MB before it hands anything on
        context.target_max_block_size = 8 * 2**20
        rows = ray.data.range(count, override_num_blocks=min(count, MAX_BLOCKS)).map_batches(
            self._render_spans,
            batch_size=1,
            fn_kwargs={"first": first, "start": start, "stop": stop},
        )
        batches = rows.iter_batches(
            batch_size=self.share.local_batch_size, batch_format="numpy", prefetch_batches=2
        )
        return (self._batch(batch) for batch in batches)

    def _render_spans(
        self, batch: dict[str, np.ndarray], first: int, start: int, stop: int
    ) -> Iterator[dict[str, Any]]:
        import torch

        torch.set_num_threads(1)
        with isolated_random():
            for number in batch["id"]:
                rows = self._render_span(first + int(number), start, stop)
                if rows:
                    yield _columns(rows)

    def _render_span(self, number: int, start: int, stop: int) -> list[Rendered]:
        span = self.order.span_at(number)
        group = self.units[span.unit]
        places = [
            int(row)
            for position, row in enumerate(self.order.rows_of(span), span.start)
            if start <= position < stop and self.share.owns(position)
        ]
        if not places:
            return []
        ids, images = _read_row_group(self.storage, group)
        nothing = np.full(len(ids), -1)
        return [
            render(
                ids,
                images,
                nothing,
                row,
                span.pass_number,
                self.seed,
                self.settings,
                self.views,
            )
            for row in places
        ]

    def _batch(self, columns: dict[str, np.ndarray]) -> Batch:
        broken = [str(name) for name in columns["broken"]]
        return stack(
            [
                Rendered(
                    str(columns["id"][i]),
                    -1,
                    {view: columns[view][i] for view in self.views},
                    int(columns["erase_seed"][i]),
                    tuple(broken[i].split("\n")) if broken[i] else (),
                )
                for i in range(len(columns["id"]))
            ]
        )


def _columns(rows: list[Rendered]) -> dict[str, Any]:
    return {
        "id": np.array([row.image_id for row in rows]),
        "erase_seed": np.array([row.erase_seed for row in rows]),
        "broken": np.array(["\n".join(row.broken) for row in rows]),
        **{view: np.stack([row.views[view] for row in rows]) for view in rows[0].views},
    }


@lru_cache(maxsize=8)
def _open(storage_uri: str, file: str) -> pq.ParquetFile:
    storage = Storage(storage_uri)
    return pq.ParquetFile(storage.fs.open(storage.path(file), "rb"))


def _read_row_group(storage: Storage, group: RowGroup) -> tuple[list[str], list[bytes]]:
    table = _open(storage.uri, group.file).read_row_group(
        group.index, columns=["image_id", "image.bytes"]
    )
    table = table.slice(0, group.rows)
    images = table["image"].combine_chunks().field("bytes").to_pylist()
    return table["image_id"].to_pylist(), images
