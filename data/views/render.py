"""From encoded images to batches of views, for images in memory and for streams alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from semigrid.data.decoding import UnusableImageError, load_image, unusable
from semigrid.data.schema import ImageTable
from semigrid.data.views.augment import (
    NO_ERASURE,
    Erasure,
    ViewName,
    ViewSettings,
    draw_erasure,
    make_view,
    reduction,
    view_seed,
)


@dataclass
class Batch:
    """Consecutive images of a stream, such as one rank's share of a global batch.

    ``views`` maps a view's name to uint8 images (B, 3, H, W); ``erasures`` (B, 5) tell what random
    erasing takes from each strong view (``Erasure``); ``labels`` (B,) are −1 in the pool;
    ``broken_by_row`` lists for each image the ids that could not be decoded and whose place it
    took.
    """

    ids: list[str]
    labels: torch.Tensor
    views: dict[ViewName, torch.Tensor]
    erasures: torch.Tensor
    broken_by_row: list[list[str]]

    @property
    def broken(self) -> list[str]:
        """All ids that could not be decoded."""
        return [image_id for names in self.broken_by_row for image_id in names]

    def __getitem__(self, rows: slice) -> "Batch":
        views = {name: view[rows] for name, view in self.views.items()}
        erasures, broken = self.erasures[rows], self.broken_by_row[rows]
        return Batch(self.ids[rows], self.labels[rows], views, erasures, broken)

    @staticmethod
    def of_one(
        image_id: str,
        label: int,
        views: Mapping[ViewName, np.ndarray],
        erasure: Erasure = NO_ERASURE,
        broken: Sequence[str] = (),
    ) -> "Batch":
        """One image, with views (3, H, W)."""
        tensors = {v: torch.from_numpy(np.ascontiguousarray(a))[None] for v, a in views.items()}
        erasures = torch.tensor([erasure])
        return Batch([image_id], torch.tensor([int(label)]), tensors, erasures, [list(broken)])

    @staticmethod
    def joined(parts: Sequence["Batch"]) -> "Batch":
        """Copies several parts into one."""
        return Batch(
            ids=[image_id for part in parts for image_id in part.ids],
            labels=torch.cat([part.labels for part in parts]),
            views={v: torch.cat([part.views[v] for part in parts]) for v in parts[0].views},
            erasures=torch.cat([part.erasures for part in parts]),
            broken_by_row=[names for part in parts for names in part.broken_by_row],
        )


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
    try:
        image, size, _ = load_image(content, reduction=reduction)
        with unusable(content):
            return image if image.mode == "RGB" else image.convert("RGB"), size
    except UnusableImageError as error:
        raise BrokenImageError(f"image {image_id} cannot be decoded: {error}") from error


def render(
    places: Sequence[tuple[ImageTable, int, int]],
    seed: int,
    settings: ViewSettings,
    views: tuple[ViewName, ...],
) -> Batch:
    """Decodes rows and makes their views, straight into the arrays of one batch.

    ``places`` are units, rows within them, and the numbers of the passes. A pool image (label −1)
    that cannot be decoded is replaced by the next row of its unit that can, and named in
    ``broken``; so positions keep their meaning. A labelled one is an error: labels are too dear to
    lose silently.
    """
    shape = (len(places), 3, settings.img_size, settings.img_size)
    made: dict[ViewName, np.ndarray] = {view: np.empty(shape, np.uint8) for view in views}
    ids: list[str] = []
    labels: list[int] = []
    erasures: list[Erasure] = []
    broken: list[list[str]] = []
    for number, (unit, row, pass_number) in enumerate(places):
        into = {view: made[view][number] for view in views}
        chosen, passed_over = _render_row(unit, row, pass_number, seed, settings, into)
        ids.append(unit.ids[chosen])
        labels.append(int(unit.labels[chosen]))
        noise = view_seed(seed, pass_number, unit.ids[chosen], "erase")
        erasures.append(draw_erasure(settings, noise))
        broken.append(passed_over)
    tensors = {view: torch.from_numpy(array) for view, array in made.items()}
    return Batch(ids, torch.tensor(labels), tensors, torch.tensor(erasures), broken)


def _render_row(
    unit: ImageTable,
    row: int,
    pass_number: int,
    seed: int,
    settings: ViewSettings,
    into: Mapping[ViewName, np.ndarray],
) -> tuple[int, list[str]]:
    """The row whose views were made, from ``row`` on, and the ids of the broken ones before it."""
    broken: list[str] = []
    for ahead in range(len(unit)):
        chosen = (row + ahead) % len(unit)
        name = unit.ids[chosen]
        seeds = {view: view_seed(seed, pass_number, name, view) for view in into}
        try:
            smaller = partial(reduction, settings, seeds)
            image, size = decode_smaller(unit.images[chosen], name, smaller)
            break
        except BrokenImageError:
            if unit.labels[chosen] >= 0:
                raise
            broken.append(name)
    else:
        raise BrokenImageError(
            f"none of {len(unit)} images can be decoded, the first is {unit.ids[0]}"
        )
    pixels = np.array(image)
    for view, array in into.items():
        make_view(pixels, settings, view, seeds[view], size, array)
    return chosen, broken
