"""Batches from sets that fit in memory, and the rendering that the Ray stream shares."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from semigrid.data.order import Share, StreamOrder
from semigrid.data.schema import ImageTable
from semigrid.data.views.augment import (
    View,
    ViewSettings,
    isolated_random,
    make_view,
    reduction,
    view_seed,
)


@dataclass
class Batch:
    """One rank's part of a global batch.

    ``views`` maps a view's name to uint8 images (B, 3, H, W); ``erase_seeds`` (B,) seed the random
    erasing of the strong view; ``labels`` (B,) are −1 in the pool; ``broken`` lists the ids that
    could not be decoded and whose place another image took.
    """

    ids: list[str]
    labels: torch.Tensor
    views: dict[str, torch.Tensor]
    erase_seeds: torch.Tensor
    broken: list[str] = field(default_factory=list)


class BrokenImageError(ValueError):
    """An image that cannot be decoded, with its id and the decoder's reason."""


def decode(content: bytes, image_id: str) -> Image.Image:
    """Decodes an encoded image to RGB. Raises ``BrokenImageError``."""
    return decode_smaller(content, image_id, lambda size: 1)[0]


def decode_smaller(
    content: bytes, image_id: str, reduction: Callable[[tuple[int, int]], int]
) -> tuple[Image.Image, tuple[int, int]]:
    """An encoded image in RGB, and its true (width, height).

    ``reduction`` says of that size how many times smaller (1, 2, 4, 8) will do; JPEG's decoder can
    make it so at once, others decode all of it. Raises ``BrokenImageError``.
    """
    with _broken(image_id):
        image: Image.Image = Image.open(io.BytesIO(content))
    size = image.size
    times = reduction(size) if image.format == "JPEG" else 1
    with _broken(image_id):
        if times > 1:
            image.draft(None, (size[0] // times, size[1] // times))
        return image.convert("RGB"), size


@contextmanager
def _broken(image_id: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise  # a full machine, not a broken image
    except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
        raise BrokenImageError(f"image {image_id} cannot be decoded: {error}") from error


@dataclass(frozen=True)
class Rendered:
    """One row's views, ready to be stacked into a batch."""

    image_id: str
    label: int
    views: dict[View, np.ndarray]
    erase_seed: int
    broken: tuple[str, ...] = ()


def render(
    ids: Sequence[str],
    images: Sequence[bytes],
    labels: np.ndarray,
    row: int,
    pass_number: int,
    seed: int,
    settings: ViewSettings,
    views: tuple[View, ...],
) -> Rendered:
    """Decodes one row of a unit and makes its views.

    A pool image (label −1) that cannot be decoded is replaced by the next row of its unit that
    can, and named in ``broken``; so positions keep their meaning. A labelled one is an error:
    labels are too dear to lose silently.
    """
    broken: list[str] = []
    for ahead in range(len(ids)):
        chosen = (row + ahead) % len(ids)
        name = ids[chosen]
        seeds = {view: view_seed(seed, pass_number, name, view) for view in views}
        try:
            smaller = partial(reduction, settings, seeds)
            image, size = decode_smaller(images[chosen], name, smaller)
            break
        except BrokenImageError:
            if labels[chosen] >= 0:
                raise
            broken.append(name)
    else:
        raise BrokenImageError(f"none of {len(ids)} images can be decoded, the first is {ids[0]}")
    pixels = np.array(image)
    made = {view: make_view(pixels, settings, view, seeds[view], size) for view in views}
    erase_seed = view_seed(seed, pass_number, name, "erase")
    return Rendered(name, int(labels[chosen]), made, erase_seed, tuple(broken))


def stack(rows: Iterable[Rendered], count: int) -> Batch:
    """Stacks ``count`` rendered rows into a batch, each as it comes: one copy, in place."""
    made: list[Rendered] = []
    views: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows):
        if not views:
            views = {name: np.empty((count, *v.shape), v.dtype) for name, v in row.views.items()}
        for name, view in row.views.items():
            views[name][number] = view
        made.append(replace(row, views={}))
    return Batch(
        ids=[row.image_id for row in made],
        labels=torch.tensor([row.label for row in made], dtype=torch.int64),
        views={name: torch.from_numpy(array) for name, array in views.items()},
        erase_seeds=torch.tensor([row.erase_seed for row in made], dtype=torch.int64),
        broken=[image_id for row in made for image_id in row.broken],
    )


class MemoryBatches:
    """Training batches of a table in memory; ``batches[step]`` is a pure function of the step."""

    def __init__(
        self,
        table: ImageTable,
        order: StreamOrder,
        share: Share,
        settings: ViewSettings,
        views: tuple[View, ...],
        seed: int,
        loader_workers: int = 0,
    ):
        self.table = table
        self.order = order
        self.share = share
        self.settings = settings
        self.views = views
        self.seed = seed
        self.loader_workers = loader_workers

    def __getitem__(self, step: int) -> Batch:
        with isolated_random():
            rows = self.order.rows(*self.share.positions(step))
            return stack((self._render(*at) for at in rows), self.share.local_batch_size)

    def _render(self, pass_number: int, row: int) -> Rendered:
        unit = int(np.searchsorted(self.order.unit_starts, row, side="right")) - 1
        start = self.order.unit_starts[unit]
        stop = start + self.order.unit_rows[unit]
        return render(
            self.table.ids[start:stop],
            self.table.images[start:stop],
            self.table.labels[start:stop],
            row - start,
            pass_number,
            self.seed,
            self.settings,
            self.views,
        )

    def __call__(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """Yields the batches of the given steps, rendered by loader processes if there are any."""
        steps = range(start_step, stop_step)
        if self.loader_workers == 0:
            return (self[step] for step in steps)
        return iter(
            DataLoader(self, batch_size=None, sampler=steps, num_workers=self.loader_workers)  # type: ignore[arg-type]
        )


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
            batch = self._batch(rows)
            if self._keep:
                made.append(batch)
            yield batch
        self._kept = made

    def _batch(self, rows: range) -> Batch:
        table = self.table
        rendered = (
            Rendered(
                table.ids[row],
                int(table.labels[row]),
                {
                    "eval": make_view(
                        decode(table.images[row], table.ids[row]), self.settings, "eval", 0
                    )
                },
                0,
            )
            for row in rows
        )
        return stack(rendered, len(rows))
