"""A small shop: class folders of images that all differ, and the settings to build a dataset."""

from pathlib import Path

import numpy as np
from PIL import Image
from tests.helpers import nasty

from semigrid.data.builder.request import BuildRequest

SETTINGS = BuildRequest(
    source="tests", name="shop", license="CC0", chunk_images=7, bucket_images=20
)


def tile(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return nasty.saved(Image.fromarray(pixels), "png")


def shop(folder: Path, images: int = 60) -> Path:
    """Class folders with distinct images, by turns."""
    for number in range(images):
        path = folder / ("dots" if number % 2 else "plain") / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tile(number))
    return folder
