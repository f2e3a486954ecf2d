"""Consecutive images of a dataset that any process can decode, and the views made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from semigrid.data.schema import Dataset, RowGroup, read_row_group
from semigrid.data.storage import Storage
from semigrid.data.views.augment import ViewSettings, make_view, view_seed
from semigrid.data.views.render import BrokenImageError, decode

# An image's id, and the image in RGB or the reason why there is none.
Decoded = tuple[str, Image.Image | None, str | None]


class ImageRange(Protocol):
    """Consecutive images that can be cut, sent to a process, and decoded there one by one."""

    @property
    def count(self) -> int: ...

    def cut(self, start: int, stop: int) -> Self: ...

    def decoded(self) -> Iterator[Decoded]: ...


Range = TypeVar("Range", bound=ImageRange)


def pieces(images: Range, size: int) -> list[Range]:
    """The images cut into ranges of ``size`` in their order; the last may have fewer."""
    return [images.cut(start, start + size) for start in range(0, images.count, size)]


@dataclass(frozen=True)
class SplitRange:
    """Rows ``start`` to ``stop`` of a dataset's split, decoded as in an evaluation.

    ``groups`` are the row groups that hold them.
    """

    storage: Storage
    groups: Sequence[RowGroup]
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @staticmethod
    def whole(dataset: Dataset, split: str) -> "SplitRange":
        """All rows of a split."""
        groups, rows = dataset.row_groups(split), dataset.rows_in(split)
        return SplitRange(dataset.storage, groups, 0, rows)

    def cut(self, start: int, stop: int) -> "SplitRange":
        start, stop = self.start + start, min(self.start + stop, self.stop)
        inside = [g for g in self.groups if g.start < stop and start < g.start + g.rows]
        return replace(self, groups=inside, start=start, stop=stop)

    def read(self) -> "EncodedRange":
        """The same images in memory, encoded as they are."""
        ids: list[str] = []
        contents: list[bytes] = []
        for group in self.groups:
            of_group = read_row_group(self.storage, group)
            wanted = slice(max(0, self.start - group.start), self.stop - group.start)
            ids += of_group[0][wanted]
            contents += of_group[1][wanted]
        return EncodedRange(ids, contents)

    def decoded(self) -> Iterator[Decoded]:
        for group in self.groups:
            yield from replace(self, groups=[group]).read().decoded()


@dataclass(frozen=True)
class EncodedRange:
    """Images in memory by id, decoded as in an evaluation."""

    ids: Sequence[str]
    images: Sequence[bytes]

    @property
    def count(self) -> int:
        return len(self.ids)

    def cut(self, start: int, stop: int) -> "EncodedRange":
        return EncodedRange(self.ids[start:stop], self.images[start:stop])

    def decoded(self) -> Iterator[Decoded]:
        for image_id, content in zip(self.ids, self.images, strict=True):
            try:
                yield image_id, decode(content, image_id), None
            except BrokenImageError as error:
                yield image_id, None, str(error.__cause__ or error)


@dataclass(frozen=True)
class Block:
    """Consecutive images: their views, or what a model says of them.

    ``rows`` are views, uint8 (N, 3, H, W), or a row of numbers for each image (N, …); those of an
    image with an error mean nothing.
    """

    ids: list[str]
    errors: list[str | None]
    rows: np.ndarray

    @staticmethod
    def joined(blocks: Sequence["Block"]) -> "Block":
        return Block(
            [image_id for block in blocks for image_id in block.ids],
            [error for block in blocks for error in block.errors],
            np.concatenate([block.rows for block in blocks]),
        )


def make_views(images: ImageRange, settings: ViewSettings, weak_seed: int | None = None) -> Block:
    """The images' evaluation views; with ``weak_seed`` a weak view, by that seed and the image.

    Where an image cannot be read, its view is black: a batch keeps its size, on which the others'
    arithmetic depends.
    """
    ids: list[str] = []
    errors: list[str | None] = []
    views = np.zeros((images.count, 3, settings.img_size, settings.img_size), np.uint8)
    for view, (image_id, image, error) in zip(views, images.decoded(), strict=True):
        if image is not None:
            try:
                if weak_seed is None:
                    view[:] = make_view(image, settings, "eval", 0)
                else:
                    seed = view_seed(weak_seed, 0, image_id, "weak")
                    view[:] = make_view(image, settings, "weak", seed)
            except (OSError, ValueError, ZeroDivisionError) as why:
                error = f"no view can be made of {image.width} × {image.height} pixels: {why}"
        ids.append(image_id)
        errors.append(error)
    return Block(ids, errors, views)
