"""The same images in every kind of source, and what a build and a prediction must make of them."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests.helpers import nasty
from tests.helpers.shop import tile

CLASSES = ("dots", "plain")
# images that every source needs for its splits, by class
SOUND = {
    f"sound{number:02d}.png": (tile(number), CLASSES[number % len(CLASSES)]) for number in range(40)
}

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\nshowpage\n%%EOF\n"


def good() -> dict[str, bytes]:
    """Images that are kept, whatever holds them; exact duplicates among them count as one."""
    thin = nasty.saved(nasty.picture((3000, 1)), "png")
    return {**nasty.good(), "thin.png": thin}


def bad() -> dict[str, bytes]:
    """Files that are set aside with a reason, whatever holds them."""
    return {
        **nasty.bad(),
        "postscript.jpg": POSTSCRIPT,
        "picture.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "fits.jpg": b"SIMPLE  =                    T" + b" " * 2850,
        "psd.jpg": b"8BPS\0\1" + b"\0" * 100,
        "zeros.jpg": b"\0" * 4096,
    }


Images = Mapping[str, bytes]
# Writes images into an empty folder and gives the arguments of ``data build`` but for DEST.
Source = Callable[[Path, Images], list[str]]


def _all(images: Images) -> dict[str, tuple[bytes, str]]:
    return {**SOUND, **{name: (content, CLASSES[0]) for name, content in images.items()}}


def class_folders(folder: Path, images: Images) -> list[str]:
    for name, (content, label) in _all(images).items():
        place = folder / "photos" / label
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return ["photos"]


def linked_folders(folder: Path, images: Images) -> list[str]:
    class_folders(folder, images)
    (folder / "photos" / CLASSES[0]).rename(folder / "elsewhere")
    (folder / "photos" / CLASSES[0]).symlink_to("../elsewhere")
    return ["photos"]


def _flat(folder: Path, images: Images) -> list[tuple[str, str]]:
    (folder / "flat").mkdir()
    for name, (content, _) in _all(images).items():
        (folder / "flat" / name).write_bytes(content)
    return [(f"flat/{name}", label) for name, (_, label) in _all(images).items()]


def table(folder: Path, images: Images) -> list[str]:
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label"), *_flat(folder, images)])
    return ["table.csv"]


def parquet_table(folder: Path, images: Images) -> list[str]:
    paths, labels = zip(*_flat(folder, images), strict=True)
    pq.write_table(pa.table({"image": paths, "label": labels}), folder / "table.parquet")
    return ["table.parquet"]


def tar(folder: Path, images: Images) -> list[str]:
    with tarfile.open(folder / "shard.tar", "w") as made:
        for number, (name, (content, label)) in enumerate(_all(images).items()):
            suffix = name.rpartition(".")[2]
            for extension, part in ((suffix, content), ("cls", label.encode())):
                info = tarfile.TarInfo(f"{number:05d}.{extension}")
                info.size = len(part)
                made.addfile(info, io.BytesIO(part))
    return ["shard.tar"]


def image_parquet(folder: Path, images: Images) -> list[str]:
    every = _all(images)
    features = {"label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    made = pa.table(
        {
            "image": [{"bytes": content, "path": name} for name, (content, _) in every.items()],
            "label": [CLASSES.index(label) for _, label in every.values()],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, folder / "images.parquet")
    return ["images.parquet", "--kind", "parquet"]


def listings(folder: Path, images: Images) -> list[str]:
    for name in ("listings/metadata", "images/metadata", "images/small"):
        (folder / "abo" / name).mkdir(parents=True)
    rows, lines = ["image_id,height,width,path"], []
    for number, (name, (content, label)) in enumerate(_all(images).items()):
        (folder / "abo/images/small" / name).write_bytes(content)
        rows.append(f"i{number},1,1,{name}")
        listing = {
            "item_id": f"B{number}",
            "product_type": [{"value": "CASE"}],
            "main_image_id": f"i{number}",
            "pattern": [{"language_tag": "en_US", "value": label}],
            "country": "DE",
        }
        lines.append(json.dumps(listing))
    packed = gzip.compress("\n".join(lines).encode())
    (folder / "abo/listings/metadata/listings_0.json.gz").write_bytes(packed)
    (folder / "abo/images/metadata/images.csv.gz").write_bytes(
        gzip.compress("\n".join(rows).encode())
    )
    return ["abo", "--product-type", "CASE"]


def pool(folder: Path, images: Images) -> list[str]:
    class_folders(folder, {})
    (folder / "more").mkdir()
    for name, content in images.items():
        (folder / "more" / name).write_bytes(content)
    return ["photos", "--pool", "more"]


def answered(folder: Path, images: Images) -> list[str]:
    """No labels but those of three workers."""
    rows = [(name, worker, label) for name, label in _flat(folder, images) for worker in "abc"]
    with open(folder / "answers.csv", "w", newline="", encoding="utf-8") as file:
        answers = [(name.removeprefix("flat/"), *rest) for name, *rest in rows]
        csv.writer(file).writerows([("task", "worker", "label"), *answers])
    return ["flat", "--answers", "answers.csv"]


SOURCES: dict[str, Source] = {
    source.__name__: source
    for source in (
        *(class_folders, linked_folders, table, parquet_table, tar, image_parquet, listings),
        *(pool, answered),
    )
}
