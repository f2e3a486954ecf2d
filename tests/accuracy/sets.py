"""Three real image sets from packages, each as a table of images for ``semigrid data build``.

A seeded share of the images keeps its label; the labels of the others are taken away, and they
become the pool.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tests.accuracy.packages import npm_files, wheel

COLUMNS = ("image", "label", "id", "group")
EMOJI_VERSION = "16.0.0"


@dataclass(frozen=True)
class Photo:
    """One image: its file's content, its class, and what it must not be parted from."""

    id: str
    content: bytes
    label: str
    group: str


@dataclass(frozen=True)
class RealSet:
    """A set: how to read it from its packages, its licence, its views' side, what else suits it.

    ``weak`` are settings of weak views, which only methods with a pool have.
    """

    photos: Callable[[Path], Iterator[Photo]]
    license: str
    pixels: int
    recipe: dict[str, object]
    weak: dict[str, object]


def solar_cells(folder: Path) -> Iterator[Photo]:
    """2,624 photographs of solar cells by electroluminescence, functional or defective.

    Buerhop-Lutz et al. 2018; the experts' probability of a defect is 0, 1/3, 2/3 or 1.
    """
    archive = wheel("elpv-dataset", "1.0.0.post1", folder)
    for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines():
        name, probability, _ = line.split()
        label = "defective" if float(probability) > 0.5 else "functional"
        yield Photo(Path(name).stem, archive.read(f"elpv_dataset/data/{name}"), label, name)


def emoji(folder: Path) -> Iterator[Photo]:
    """Drawings of emoji by two vendors, in Unicode's categories; both drawings are one group."""
    for vendor in ("twitter", "google"):
        files = dict(npm_files(f"emoji-datasource-{vendor}", EMOJI_VERSION, folder))
        for each in json.loads(files["emoji.json"]):
            content = files.get(f"img/{vendor}/64/{each['image']}")
            if content is not None and each["category"] != "Component":
                name = f"{each['unified']}-{vendor}"
                yield Photo(name, _on_white(content), each["category"], each["unified"])


def digits(folder: Path) -> Iterator[Photo]:
    """1,797 handwritten digits of 8×8 pixels, from scikit-learn (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for number, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        image = Image.fromarray((pixels * (255 / 16)).astype(np.uint8))
        yield Photo(f"{number:04}", _png(image.resize((32, 32))), f"digit {label}", str(number))


# no mirror image of a digit is one, and crops must leave enough of a small picture to be read
_GENTLE = {"hflip": 0, "crop_scale": [0.5, 1.0]}
_WEAK: dict[str, object] = {"weak_crop_scale": [0.8, 1.0]}
SETS = {
    "solar-cells": RealSet(solar_cells, "CC-BY-NC-SA-4.0", 48, {}, {}),
    "emoji": RealSet(emoji, "CC-BY-4.0 (Twemoji) and Apache-2.0 (Noto)", 32, {}, {}),
    "digits": RealSet(digits, "CC-BY-4.0", 32, _GENTLE, _WEAK),
}


def write_table(name: str, folder: Path, downloads: Path, labeled: int) -> Path:
    """Writes a set's images and its table, about ``labeled`` with labels; returns its path."""
    table = folder / "images.csv"
    if table.exists():
        return table
    downloads.mkdir(parents=True, exist_ok=True)
    photos = sorted(SETS[name].photos(downloads), key=lambda photo: photo.id)
    groups = sorted({photo.group for photo in photos})
    random.Random(0).shuffle(groups)
    share = labeled / len(photos)
    keep = set(groups[: round(len(groups) * share)])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for photo in photos:
        file = f"images/{photo.id}.png"
        (folder / file).write_bytes(photo.content)
        rows.append((file, photo.label if photo.group in keep else "", photo.id, photo.group))
    with table.open("w", newline="") as out:
        csv.writer(out).writerows([COLUMNS, *rows])
    return table


def _on_white(content: bytes) -> bytes:
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return _png(Image.alpha_composite(white, image).convert("RGB"))


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
