"""Batches from sets that fit in memory."""

import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from semigrid.data.mapped import mapped
from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import ImageTable
from semigrid.data.views.augment import NO_ERASURE, ViewName, ViewSettings, make_view
from semigrid.data.views.render import Batch, decode, render


@dataclass
class MemoryBatches:
    """Training batches of a table in memory; ``batches[step]`` is a pure function of the step."""

    table: ImageTable
    order: StreamOrder
    share: Share
    settings: ViewSettings
    views: tuple[ViewName, ...]
    seed: int

    def __getitem__(self, step: int) -> Batch:
        rows = self.order.rows(*self.share.positions(step))
        places = [self._place(*at) for at in rows]
        return render(places, self.seed, self.settings, self.views)

    def _place(self, pass_number: int, row: int) -> tuple[ImageTable, int, int]:
        number = int(np.searchsorted(self.order.unit_starts, row, side="right")) - 1
        start = self.order.unit_starts[number]
        unit = self.table[start : start + self.order.unit_rows[number]]
        return unit, row - start, pass_number

    def __call__(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Yields the batches of the given steps, each made when it is asked for."""
        return (self[step] for step in range(start_step, stop_step))


class _Together(Dataset[dict[str, Batch]]):
    """A step's batches of several sources; a pure function of the step."""

    def __init__(self, sources: Mapping[str, MemoryBatches]):
        self._sources = sources

    def __getitem__(self, step: int) -> dict[str, Batch]:
        return {name: source[step] for name, source in self._sources.items()}


def load(
    sources: Mapping[str, MemoryBatches], steps: range, processes: int
) -> Iterator[dict[str, Batch]]:
    """Yields the batches of each step, one of every source, made by so many processes.

    With 0 they are made here, when they are asked for. Otherwise each process makes a step ahead,
    and they end with the iterator.
    """
    together = _Together(sources)
    if processes == 0:
        return (together[step] for step in steps)
    loader = DataLoader(
        together,
        batch_size=None,
        sampler=steps,
        num_workers=processes,
        prefetch_factor=1,  # a step of 128 + 640 images at 224 px has 0.2 GB of views
        # They share the images and have imported torch already: begun in 0.1 s, with 22 MiB each of
        # their own. Spawned ones take seconds and 470 MiB, and each a copy of the images.
        multiprocessing_context="fork",
        generator=torch.Generator(),  # or it would draw from the training's
    )
    return iter(loader)


class EvalBatches:
    """The evaluation views of this rank's batches of a table, each row on exactly one rank.

    The batches are the same however many ranks share them, so that each image meets the same
    arithmetic: a matrix product may round differently with another number of rows. Views that
    fit into ``KEEP_BYTES`` of memory are kept, so that repeated evaluations decode once; see
    ``kept`` for more of them.

    Args:
        loader_processes: processes that decode; 0 decodes in this one.
    """

    KEEP_BYTES = 256 * 2**20

    def __init__(
        self,
        table: ImageTable,
        settings: ViewSettings,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        loader_processes: int = 0,
    ):
        self.table = table
        self.settings = settings
        self.loader_processes = loader_processes
        starts = range(0, len(table), batch_size)[rank::world_size]
        self.batches = [range(s, min(s + batch_size, len(table))) for s in starts]
        self._sizes = [len(rows) for rows in self.batches]
        self._shape = (sum(self._sizes), 3, settings.img_size, settings.img_size)
        self._fits = math.prod(self._shape) <= self.KEEP_BYTES
        self._may_use_disk = False
        self._kept: list[torch.Tensor] | None = None  # a batch each, once all are made

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within this context views are kept even if they are too many for memory.

        Those lie in a temporary file, one byte a value, which is gone after the context, or when
        the process dies. Where the disk has no room for it, each evaluation decodes.
        """
        self._may_use_disk = True
        try:
            yield
        finally:
            self._may_use_disk = False
            if not self._fits:
                self._kept = None

    def __iter__(self) -> Iterator[Batch]:
        made = self._decode() if self._kept is None else self._kept
        for rows, views in zip(self.batches, made, strict=True):
            part = self.table[rows.start : rows.stop]
            labels = torch.tensor(part.labels, dtype=torch.int64)
            nothing = torch.tensor([NO_ERASURE] * len(rows))
            yield Batch(list(part.ids), labels, {"eval": views}, nothing, [[] for _ in rows])

    def _decode(self) -> Iterator[torch.Tensor]:
        """Makes the views of each batch, and keeps them when it has made all."""
        places = self._places()
        views = _EvalViews(self.table, self.settings, self.batches)
        # a process takes longer to start than a batch to decode
        processes = min(self.loader_processes, len(self.batches) // 2)
        loader = DataLoader(
            views,
            batch_size=None,
            num_workers=processes,
            multiprocessing_context="fork" if processes else None,  # as ``load`` does
            generator=torch.Generator(),
        )
        for number, batch in enumerate(loader):
            if places is not None:
                places[number].copy_(batch)
            yield batch
        self._kept = places

    def _places(self) -> list[torch.Tensor] | None:
        """Where the views of each batch are kept; None if they are not."""
        if self._fits:
            room = torch.empty(self._shape, dtype=torch.uint8)
        elif self._may_use_disk:
            try:
                room = torch.from_numpy(mapped(self._shape, np.uint8))
            except OSError as error:
                self._may_use_disk = False
                logging.getLogger(__name__).warning(
                    "no room in %s for %.0f MB of decoded images (%s): each evaluation decodes "
                    "them again; let TMPDIR be a folder of a disk with room",
                    *(tempfile.gettempdir(), math.prod(self._shape) / 1e6, error),
                )
                return None
        else:
            return None
        return list(torch.split(room, self._sizes))


class _EvalViews(Dataset[torch.Tensor]):
    """By number, the evaluation views of each batch of a table, uint8 (B, 3, H, W)."""

    def __init__(self, table: ImageTable, settings: ViewSettings, batches: list[range]):
        self.table, self.settings, self.batches = table, settings, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> torch.Tensor:
        views = [self._view(row) for row in self.batches[number]]
        # in another order of memory, such as that of the views, a convolution rounds differently
        return torch.from_numpy(np.ascontiguousarray(np.stack(views)))

    def _view(self, row: int) -> np.ndarray:
        image = decode(self.table.images[row], self.table.ids[row])
        return make_view(image, self.settings, "eval", 0)
