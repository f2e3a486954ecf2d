"""The mistakes that a model was surest of, with their images."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from semigrid.data.errors import InputError
from semigrid.grid.analysis.known import Known
from semigrid.grid.analysis.results import Row

MOST = 24
SIDE = 160  # pixels of a thumbnail's longer side: 24 of them are some 150 kB


@dataclass(frozen=True)
class Mistake:
    """An image, what it is and what it was taken for; ``image`` is a data URI, None if unreadable.

    ``pixelated`` tells that the image is tiny and shown enlarged.
    """

    image_id: str
    true: str
    predicted: str
    confidence: float
    image: str | None
    pixelated: bool = False


def confident_mistakes(known: Known, row: Row) -> tuple[list[Mistake], str | None]:
    """Of the cell's first seed that can be read, the surest first; and what went wrong, if it did.

    The dataset may have been moved since: then there are mistakes without images.
    """
    test_set = known.measured.test_sets[row.cell.dataset]
    seed = known.measured.seeds(row.cell)[0]
    wrong = np.flatnonzero(~seed.right)
    chosen = wrong[np.argsort(-seed.confidence[wrong], kind="stable")][:MOST]
    ids = [test_set.ids[i] for i in chosen]
    dataset = known.plan.experiment.datasets[row.cell.dataset]
    problem = None
    try:
        images = dataset.images("test", set(ids)) if ids else {}
    except (OSError, ValueError, InputError) as error:
        images, problem = {}, f"the images of {row.cell.dataset} cannot be read: {error}"
    found = []
    for i, image_id in zip(chosen, ids, strict=True):
        image, pixelated = _thumbnail(images.get(image_id))
        found.append(
            Mistake(
                image_id,
                test_set.classes[int(test_set.labels[i])],
                test_set.classes[int(seed.chosen[i])],
                float(seed.confidence[i]),
                image,
                pixelated,
            )
        )
    return found, problem


def _thumbnail(content: bytes | None) -> tuple[str | None, bool]:
    if content is None:
        return None, False
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None, False
    small = max(image.size) < SIDE // 2
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=80)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", small
