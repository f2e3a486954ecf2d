"""Every reader of files that may come from others, with the files that it is tried on."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.helpers import nasty
from tests.hostile import runs
from tests.hostile.mutations import (
    NAMES,
    any_bytes,
    as_json,
    as_yaml,
    delimited,
    documents,
    edited,
    parquet_files,
    tars,
)

from semigrid.data.builder.clean import CleanSettings, clean_image
from semigrid.data.builder.gather import gather
from semigrid.data.builder.request import load_request
from semigrid.data.catalog import open_dataset
from semigrid.data.decoding import UnusableImageError
from semigrid.data.schema import LABELED_SPLITS, POOL
from semigrid.data.sources.items import Item
from semigrid.data.storage import open_storage
from semigrid.trainers.methods.fixmatch import FIXMATCH, FixmatchRecipe
from semigrid.trainers.methods.recorded import (
    METHODS_FILE,
    Package,
    RecordedMethod,
    read_methods,
)


@dataclass(frozen=True)
class Reader:
    """A reader, the files it is tried on, and how many of a hundred inputs it gets.

    ``read`` gets an empty folder and the file's content. It may raise ``InputError``.
    """

    name: str
    contents: st.SearchStrategy[bytes]
    read: Callable[[Path, bytes], None]
    share: float = 1.0


PNG = nasty.saved(nasty.picture((8, 6)), "png")
CELLS = st.one_of(
    st.sampled_from(["a.png", "b.png", "cats", "dogs", "w1", "Approved", "true", "false", ""]),
    st.sampled_from(NAMES),
    st.text(max_size=6),
)


def _use(items: Iterable[Item]) -> None:
    """Reads and decodes the first images, as a build does."""
    for item in list(items)[:3]:
        try:
            clean_image(item.read(), CleanSettings(max_pixels=10_000))
        except (OSError, UnusableImageError):
            continue


def _build(folder: Path, source: str, **options: Any) -> None:
    items, _ = gather(load_request(str(folder / source), options))
    _use(items)


def _images(folder: Path) -> None:
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(PNG)


def _table(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        _images(folder)
        (folder / f"table.{suffix}").write_bytes(content)
        _build(folder, f"table.{suffix}", kind="table")

    return read


def _answers(suffix: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        photos = folder / "photos" / "x"
        photos.mkdir(parents=True)
        _images(photos)
        (folder / f"answers.{suffix}").write_bytes(content)
        _build(folder, "photos", answers=str(folder / f"answers.{suffix}"))

    return read


def _one_file(name: str, kind: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, content: bytes) -> None:
        (folder / name).write_bytes(content)
        _build(folder, name, kind=kind)

    return read


LISTING = {
    "item_id": "B1",
    "product_type": [{"value": "CASE"}],
    "main_image_id": "i1",
    "other_image_id": ["i2"],
    "pattern": [{"language_tag": "en_US", "value": "dots"}],
    "country": "DE",
}


def _abo(folder: Path, content: bytes) -> None:
    """The first byte says which of the two files has the rest; the other is as it should be."""
    for name in ("listings/metadata", "images/metadata", "images/small"):
        (folder / name).mkdir(parents=True)
    (folder / "images/small/x.png").write_bytes(PNG)
    table = b"image_id,height,width,path\ni1,1,1,x.png\n"
    listings = content[1:] if content[:1] == b"l" else gzip.compress(as_json(LISTING))
    (folder / "listings/metadata/listings_0.json.gz").write_bytes(listings)
    table = content[1:] if content[:1] == b"i" else gzip.compress(table)
    (folder / "images/metadata/images.csv.gz").write_bytes(table)
    _build(folder, "", kind="abo", product_type="CASE", all_images=True)


def _image(folder: Path, content: bytes) -> None:
    try:
        clean_image(content, CleanSettings(max_pixels=1_000_000))
    except UnusableImageError:
        return


def _request(folder: Path, content: bytes) -> None:
    (folder / "build.yaml").write_bytes(content)
    load_request(str(folder / "build.yaml"), {})


@cache
def _dataset() -> Path:
    """A dataset of the digits, made once."""
    return Path(open_dataset("builtin://digits").storage.uri)


def _manifest(folder: Path, content: bytes) -> None:
    for file in _dataset().glob("*.parquet"):
        shutil.copy(file, folder)
    (folder / "dataset.json").write_bytes(content)
    dataset = open_dataset(str(folder))
    for split in (*LABELED_SPLITS, POOL):
        dataset.row_groups(split)
        dataset.rows_in(split)


def _manifests() -> st.SearchStrategy[bytes]:
    return documents([json.loads((_dataset() / "dataset.json").read_text())]).map(as_json)


def _experiment(folder: Path, content: bytes) -> None:
    from semigrid.data.yaml_files import read_yaml
    from semigrid.grid.experiment.load import load_experiment

    file = folder / "file.yaml"
    file.write_bytes(content)
    load_experiment(str(file), text=read_yaml(str(file)))


def _experiments() -> st.SearchStrategy[bytes]:
    from tests.helpers.experiments import SMALL

    text = yaml.safe_dump(SMALL).encode()
    return st.one_of(documents([SMALL]).map(as_yaml), edited(st.just(text)))


def _members() -> Sequence[tuple[str, bytes]]:
    return [
        ("a.png", PNG),
        ("a.cls", b"cats"),
        ("a.json", b'{"label": "cats"}'),
        ("b.jpg", nasty.saved(nasty.picture((8, 6)), "jpeg")),
        ("b.cls", b"\xff\0"),
        ("c.json", b"[" * 3000),
        ("x" * 150 + ".png", PNG),
    ]


def _hugging_face() -> st.SearchStrategy[bytes]:
    images = [{"bytes": PNG, "path": None}] * 4
    table = pa.table({"image": pa.array(images), "label": pa.array([0, 1, None, -1])})
    features = {"label": {"_type": "ClassLabel", "names": ["cats", "dogs"]}}
    return parquet_files(table, documents([{"info": {"features": features}}]))


def _path_tables() -> st.SearchStrategy[bytes]:
    table = pa.table({"image": ["a.png", "b.png"], "label": ["cats", "dogs"]})
    return parquet_files(table, documents([{"info": {}}]))


def _packed(kind: bytes, lines: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    packed = lines.map(lambda text: gzip.compress(text, 1, mtime=0))
    return st.one_of(packed, packed, edited(packed)).map(lambda content: kind + content)


def _ground_truth() -> st.SearchStrategy[bytes]:
    workers = {
        "source-ref": "s3://bucket/x/a.png",
        "kind": {
            "annotationsFromAllWorkers": [
                {"workerId": "w1", "annotationData": {"content": '{"label": {"label": "cats"}}'}}
            ]
        },
    }
    agreed = {
        "source-ref": "x/b.png",
        "kind": 1,
        "kind-metadata": {"class-name": "dogs", "type": "groundtruth/image-classification"},
    }
    lines = st.lists(documents([workers, agreed]).map(as_json), min_size=1, max_size=3)
    return lines.map(b"\n".join)


MTURK = ["AssignmentStatus", "WorkerId", "Input.image", "Answer.kind.label", "Answer.kind.cats"]


def _pictures() -> st.SearchStrategy[bytes]:
    return any_bytes([*nasty.good().values(), *nasty.bad().values()])


def _requests() -> st.SearchStrategy[bytes]:
    request = {"source": "photos", "pool": ["more"], "name": "n", "seed": 1, "val_share": 0.1}
    return st.one_of(
        documents([request]).map(as_yaml), edited(st.just(yaml.safe_dump(request).encode()))
    )


def _recorded() -> st.SearchStrategy[bytes]:
    recipe = FixmatchRecipe(steps=5)
    package = Package(name="p", version="1", module="p", pip="p==1")
    recorded = RecordedMethod.of(FIXMATCH, package, [recipe], [recipe])
    return documents([{"methods": [recorded.model_dump(mode="json")]}]).map(as_json)


def _methods(folder: Path, content: bytes) -> None:
    """The methods, and a recipe of each as an experiment file asks for it."""
    (folder / METHODS_FILE).write_bytes(content)
    for recorded in read_methods(open_storage(folder)):
        with suppress(ValidationError):  # a problem of the file's recipe
            recorded.stand_in().recipe()


def readers() -> list[Reader]:
    """All of them, those that need no PyTorch first."""
    import matplotlib.font_manager  # noqa: F401  # asks for this machine's fonts, once

    return [
        Reader("csv", delimited(["image", "label"], CELLS), _table("csv"), 10),
        Reader("tsv", edited(delimited(["image", "label"], CELLS)), _table("tsv"), 5),
        Reader("table-parquet", _path_tables(), _table("parquet"), 8),
        Reader("image-parquet", _hugging_face(), _one_file("x.parquet", "parquet"), 8),
        Reader("tar", tars(_members()), _one_file("x.tar", "webdataset"), 12),
        Reader("listings", _packed(b"l", documents([LISTING]).map(as_json)), _abo, 6),
        Reader("image-list", _packed(b"i", delimited(["image_id", "path"], CELLS)), _abo, 4),
        Reader("answers", delimited(["task", "worker", "label"], CELLS), _answers("csv"), 8),
        Reader("mturk", delimited(MTURK, CELLS), _answers("csv"), 8),
        Reader("ground-truth", _ground_truth(), _answers("manifest"), 6),
        Reader("image", _pictures(), _image, 10),
        Reader("build-yaml", _requests(), _request, 5),
        Reader("manifest", _manifests(), _manifest, 4),
        Reader("experiment", _experiments(), _experiment, 0.5),
        Reader("record", runs.json_in(runs.RECORDS), runs.read_record, 1.5),
        Reader("methods", _recorded(), _methods, 2),
        Reader("predictions", runs.prediction_tables(), runs.read_table, 3),
        Reader("live", runs.json_in(runs.LIVE), runs.by_commands(runs.LIVE, *runs.STATUS), 0.2),
        Reader("record-in-run", runs.json_in(runs.RECORDS), runs.by_commands(runs.RECORDS), 0.03),
        Reader("table-in-run", runs.prediction_tables(), runs.by_commands(runs.TABLES), 0.03),
    ]
