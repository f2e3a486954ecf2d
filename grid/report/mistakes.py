"""The mistakes that a model was most confident of, with their images."""

import base64
import io
from dataclasses import dataclass

import numpy as np

from semigrid.data.errors import InputError
from semigrid.data.views.render import BrokenImageError, decode
from semigrid.grid.analysis.result_set import CellResult, ResultSet

MOST = 24  # mistakes shown of a cell
SIDE = 160  # longer side of a thumbnail in pixels; 24 of them are about 150 kB


@dataclass(frozen=True)
class Mistake:
    """An image, its class and the class it was taken for.

    ``image`` is a data URI, None for one that cannot be read; only tiny ones are PNG.
    """

    image_id: str
    true: str
    predicted: str
    confidence: float
    image: str | None


def confident_mistakes(results: ResultSet, row: CellResult) -> tuple[list[Mistake], str | None]:
    """The mistakes of the cell's first seed, the surest first, and why images are missing, if any.

    The dataset may have been moved since: then there are mistakes without images.
    """
    test_set = results.test_sets[row.cell.dataset]
    seed = row.predictions[0]
    wrong = np.flatnonzero(~seed.right)
    surest = wrong[np.argsort(-seed.confidence[wrong], kind="stable")][:MOST]
    ids = [test_set.ids[i] for i in surest]
    dataset = results.plan.experiment.datasets[row.cell.dataset]
    problem = None
    try:
        images = dataset.images("test", set(ids)) if ids else {}
    except (OSError, ValueError, InputError) as error:
        images, problem = {}, f"the images of {row.cell.dataset} cannot be read: {error}"
    thumbnails: dict[str, str] = {}
    damaged: list[str] = []
    for image_id, content in images.items():
        try:
            thumbnails[image_id] = _thumbnail(content, image_id)
        except BrokenImageError as error:
            damaged.append(str(error))
    if damaged:
        many = f"{len(damaged)} of these images cannot be shown any more"
        problem = f"{many}: {damaged[0]}"
    mistakes = [
        Mistake(
            image_id,
            test_set.classes[int(test_set.labels[i])],
            test_set.classes[int(seed.chosen[i])],
            float(seed.confidence[i]),
            thumbnails.get(image_id),
        )
        for i, image_id in zip(surest, ids, strict=True)
    ]
    return mistakes, problem


def _thumbnail(content: bytes, image_id: str) -> str:
    """A data URI: a JPEG, or a PNG where every pixel of a tiny image will be seen.

    Raises ``BrokenImageError``.
    """
    image = decode(content, image_id)
    kind = "png" if max(image.size) < SIDE // 2 else "jpeg"
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=80)  # PNG ignores the quality
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
