"""From encoded images to batches of views, for images in memory and for streams alike."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image

from semigrid.data.views.augment import ViewName, ViewSettings, make_view, reduction, view_seed


@dataclass
class Batch:
    """Consecutive images of a stream, such as one rank's share of a global batch.

    ``views`` maps a view's name to uint8 images (B, 3, H, W); ``erase_seeds`` (B,) seed the random
    erasing of the strong view; ``labels`` (B,) are −1 in the pool; ``broken_by_row`` lists for each
    image the ids that could not be decoded and whose place it took.
    """

    ids: list[str]
    labels: torch.Tensor
    views: dict[str, torch.Tensor]
    erase_seeds: torch.Tensor
    broken_by_row: list[list[str]]

    @property
    def broken(self) -> list[str]:
        """All ids that could not be decoded."""
        return [image_id for names in self.broken_by_row for image_id in names]

    def __getitem__(self, rows: slice) -> "Batch":
        views = {name: view[rows] for name, view in self.views.items()}
        seeds, broken = self.erase_seeds[rows], self.broken_by_row[rows]
        return Batch(self.ids[rows], self.labels[rows], views, seeds, broken)

    @staticmethod
    def joined(parts: Sequence["Batch"]) -> "Batch":
        """Copies several parts into one."""
        return Batch(
            ids=[image_id for part in parts for image_id in part.ids],
            labels=torch.cat([part.labels for part in parts]),
            views={v: torch.cat([part.views[v] for part in parts]) for v in parts[0].views},
            erase_seeds=torch.cat([part.erase_seeds for part in parts]),
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
    views: dict[ViewName, np.ndarray]
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
    views: tuple[ViewName, ...],
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
    ids: list[str] = []
    broken: list[list[str]] = []
    labels, seeds = np.empty(count, np.int64), np.empty(count, np.int64)
    views: dict[str, np.ndarray] = {}
    for number, row in enumerate(rows):
        if not views:
            views = {name: np.empty((count, *v.shape), v.dtype) for name, v in row.views.items()}
        for name, view in row.views.items():
            views[name][number] = view
        ids.append(row.image_id)
        broken.append(list(row.broken))
        labels[number], seeds[number] = row.label, row.erase_seed
    tensors = {name: torch.from_numpy(array) for name, array in views.items()}
    return Batch(ids, torch.from_numpy(labels), tensors, torch.from_numpy(seeds), broken)
