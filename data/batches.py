"""Batches from sets that fit in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import ImageTable
from semigrid.data.views.augment import ViewName, ViewSettings, make_view
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
    arithmetic: a matrix product may round differently with another number of rows. The views are
    kept when all of them together are small, so that repeated evaluations decode once.
    """

    KEEP_BYTES = 256 * 2**20

    def __init__(
        self,
        table: ImageTable,
        settings: ViewSettings,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.table = table
        self.settings = settings
        starts = range(0, len(table), batch_size)[rank::world_size]
        self.batches = [range(s, min(s + batch_size, len(table))) for s in starts]
        self._kept: list[Batch] = []
        rows = sum(len(batch) for batch in self.batches)
        self._keep = rows * 3 * settings.img_size**2 <= self.KEEP_BYTES

    def __iter__(self) -> Iterator[Batch]:
        if self._kept:
            yield from self._kept
            return
        made = []
        for rows in self.batches:
            batch = Batch.joined([self._render(row) for row in rows])
            if self._keep:
                made.append(batch)
            yield batch
        self._kept = made

    def _render(self, row: int) -> Batch:
        image_id = self.table.ids[row]
        image = decode(self.table.images[row], image_id)
        view = make_view(image, self.settings, "eval", 0)
        return Batch.of_one(image_id, self.table.labels[row], {"eval": view})
