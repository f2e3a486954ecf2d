import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.helpers import nasty
from tests.helpers.shop import SETTINGS, shop, tile

from semigrid.data.builder import chunks
from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.place import BUILDING
from semigrid.data.builder.report import report_lines
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.schema import MANIFEST, Dataset
from semigrid.data.sources.files import folder_items, table_items
from semigrid.data.sources.items import Inside, Item
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage import open_storage
from semigrid.data.views.render import decode


def pool(folder: Path, images: int = 30) -> list[Item]:
    folder.mkdir()
    for number in range(images):
        (folder / f"{number:03d}.png").write_bytes(tile(1000 + number))
    return folder_items(str(folder), labeled=False)


def build(source: Path, to: Path | str, **settings: Any) -> tuple[Dataset, dict[str, Any]]:
    request = SETTINGS.model_copy(update=settings)
    return build_dataset(str(to), folder_items(str(source)), request)


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop"))) + pool(tmp_path / "pool")
    built, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    dataset = open_dataset(str(tmp_path / "set"))
    assert dataset.manifest == built.manifest
    assert dataset.manifest.classes == ("dots", "plain")
    # a tenth balanced for test, 15 % for val; the pool has no labels
    assert dataset.manifest.counts["test"] == {"dots": 3, "plain": 3}
    assert dataset.manifest.counts["val"] == {"dots": 5, "plain": 5}
    assert (dataset.manifest.pool, dataset.manifest.pool_unit) == (30, 30)
    assert report["splits"] == {"train": 44, "val": 10, "test": 6, "pool": 30}
    seen = 0
    for split in ("train", "val", "test", "pool"):
        table = dataset.read(split)
        for image_id, content, label in zip(table.ids, table.images, table.labels, strict=True):
            number = int(Path(image_id).stem)
            assert content == tile(number + 1000 * (split == "pool"))
            assert label == (-1 if split == "pool" else 1 - number % 2)
            seen += 1
    assert seen == 90
    assert sorted(os.listdir(tmp_path / "set"))[:2] == ["dataset.json", "pool-00000.parquet"]
    assert not (tmp_path / "set" / BUILDING).exists()


def test_rows_stand_in_the_seeded_order_whatever_the_chunks(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    first, _ = build(source, tmp_path / "a")
    second, _ = build(source, tmp_path / "b", chunk_images=100, bucket_images=3)
    assert first.manifest == second.manifest  # hashes of the shards' bytes included
    third, _ = build(source, tmp_path / "c", seed=1)
    assert third.manifest.fingerprint != first.manifest.fingerprint


def test_the_fingerprint_does_not_know_where_the_source_lies(tmp_path: Path) -> None:
    first, _ = build(shop(tmp_path / "here"), tmp_path / "a")
    second, _ = build(shop(tmp_path / "there"), "memory://ingest/b")
    assert first.manifest.fingerprint == second.manifest.fingerprint


@pytest.mark.parametrize("name", ["plain/000.png", "dots/001.png"])
def test_the_fingerprint_changes_with_any_image_and_setting(tmp_path: Path, name: str) -> None:
    source = shop(tmp_path / "shop")
    before, _ = build(source, tmp_path / "a")
    smaller, _ = build(source, tmp_path / "b", shorter_side=4)
    (source / name).write_bytes(tile(12345))
    after, _ = build(source, tmp_path / "c")
    found = {d.manifest.fingerprint for d in (before, smaller, after)}
    assert len(found) == 3


def test_the_nastiest_files(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    for name, content in {**nasty.good(), **nasty.bad()}.items():
        (source / "plain" / name).write_bytes(content)
    _, report = build(source, tmp_path / "set")
    assert set(report["quarantined"]) == {f"plain/{name}" for name in nasty.bad()}
    assert report["quarantined"]["plain/text.jpg"] == "not an image"
    assert report["quarantined"]["plain/empty.jpg"] == "an empty file"
    # the same picture in other wrappings is one image
    kept = {*nasty.good()} - {Path(name).name for name in report["duplicates"]}
    assert {"plain/plain.tiff", "plain/lossless.webp"} <= set(report["duplicates"])
    assert report["kept"] == 60 + len(kept)
    assert report["changed"]["turned upright"] == 1 and report["changed"]["CMYK"] == 1
    assert json.loads((tmp_path / "set" / "report.json").read_text()) == report


class Killed(Exception):
    pass


def test_a_build_killed_half_way_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    whole, _ = build(source, tmp_path / "whole")
    items = folder_items(str(source))

    def killed(done: int, total: int) -> None:
        if done == 4 * SETTINGS.chunk_images:
            raise Killed

    with pytest.raises(Killed):
        build_dataset(str(tmp_path / "set"), items, SETTINGS, progress=killed)
    with pytest.raises(InputError, match="no dataset here"):
        open_dataset(str(tmp_path / "set"))  # half of one does not look whole
    (folder,) = (tmp_path / "set" / BUILDING).glob("*/")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(before) == 4
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        seen.append((done, total))
        after = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        assert {name: after[name] for name in before} == before  # nothing is cleaned twice

    built, _ = build_dataset(str(tmp_path / "set"), items, SETTINGS, progress=look)
    assert [done for done, _ in seen] == [*range(0, 60, 7), 60]
    assert built.manifest == whole.manifest


def test_a_dataset_is_never_overwritten(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    build(source, tmp_path / "set")
    content = (tmp_path / "set" / MANIFEST).read_bytes()
    with pytest.raises(InputError, match="there is a dataset here already"):
        build(source, tmp_path / "set", seed=2)
    assert (tmp_path / "set" / MANIFEST).read_bytes() == content


def test_slices_and_votes_are_columns(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    items = [
        replace(item, slices={"country": "MX" if n % 3 else "BR"})
        for n, item in enumerate(folder_items(str(source)))
    ]
    items[0] = replace(items[0], votes={"plain": 1, "dots": 2})
    built, _ = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert built.manifest.slices == ("country",) and built.manifest.votes
    found = {}
    for shard in built.manifest.shards:
        table = pq.read_table(tmp_path / "set" / shard.file)
        for row in table.select(["image_id", "country", "votes"]).to_pylist():
            found[row["image_id"]] = (row["country"], row["votes"])
    assert found[items[0].image_id] == ("BR", '{"dots": 2, "plain": 1}')
    assert found[items[1].image_id] == ("MX", None)
    assert [country for country, _ in found.values()].count("BR") == 20


def test_the_dataset_opens_in_hugging_face_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import datasets

    built, _ = build(shop(tmp_path / "shop"), tmp_path / "set")
    files = {
        split: [str(tmp_path / "set" / s.file) for s in built.manifest.shards if s.split == split]
        for split in ("train", "val", "test")
    }
    opened = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split, rows in opened.items():
        assert rows.num_rows == built.rows_in(split)
        found = [row["image_id"] for row in rows]
        assert found == built.column(split, "image_id").to_pylist()
    first = opened["train"][0]
    assert isinstance(first["image"], Image.Image) and first["image"].size == (6, 6)
    assert np.array_equal(first["image"], decode(built.read("train").images[0], "first"))


def test_a_folder_of_images_without_class_folders(tmp_path: Path) -> None:
    shop(tmp_path / "shop")
    (tmp_path / "shop" / "beside.png").write_bytes(tile(1))
    with pytest.raises(InputError, match="beside.png is outside the class folders"):
        folder_items(str(tmp_path / "shop"))
    assert len(folder_items(str(tmp_path / "shop"), labeled=False)) == 61
    with pytest.raises(InputError, match="there is no such folder"):
        folder_items(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image here"):
        folder_items(str(tmp_path / "empty"))


def test_a_table_of_paths(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop", 4)
    lines = ["path,pattern,sku,country"]
    lines += [
        f"{label}/{n:03d}.png,{'' if n == 3 else label},sku{n // 2},MX"
        for n in range(4)
        for label in ["dots" if n % 2 else "plain"]
    ]
    (source / "images.csv").write_text("\n".join(lines) + "\n")
    items = table_items(
        f"{source}/images.csv", image="path", label="pattern", group="sku", slices=["country"]
    )
    assert items[1] == Item(
        "dots/001.png", f"{source}/dots/001.png", "dots", "sku0", {"country": "MX"}
    )
    assert items[3].label is None  # no label: for the pool
    with pytest.raises(InputError, match="there is no column 'colour'; there are path, pattern"):
        table_items(f"{source}/images.csv", image="path", label="colour")
    (source / "images.csv").write_text("path,pattern\na.png,x\na.png,y\n")
    with pytest.raises(InputError, match="1 images occur twice, the first is 'a.png'"):
        table_items(f"{source}/images.csv", image="path", label="pattern")


def test_images_on_any_file_system(tmp_path: Path) -> None:
    where = open_storage("memory://photos")
    for number in range(40):
        where.write(f"{'ab'[number % 2]}/{number}.png", tile(number))
    dataset, _ = build_dataset("memory://datasets/photos", folder_items(where.uri), SETTINGS)
    assert dataset.manifest.classes == ("a", "b")
    assert len(open_dataset("memory://datasets/photos").read("train")) == 30


def test_labels_that_differ_in_spelling_only_are_shown(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    spelled = [
        replace(item, label=["cat", "cat ", "dog"][number % 3]) for number, item in enumerate(items)
    ]
    dataset, report = build_dataset(f"{tmp_path}/set", spelled, SETTINGS)
    shown = "'cat', 'cat ' differ only in spelling: write them alike"
    assert shown in report_lines(dataset, report)


def test_what_lies_beside_the_images_is_in_the_report(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    (source / "plain/.DS_Store").write_bytes(b"")
    (source / "plain/photo.heic").write_bytes(b"")
    path = os.path.join(os.fsencode(tmp_path), b"pool", b"caf\xe9.png")
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(tile(1000))
    request = SETTINGS.model_copy(update={"source": str(source), "pool": [f"{tmp_path}/pool"]})
    left_out = LeftOut()
    items, _ = gather(request, left_out)
    dataset, report = build_dataset(f"{tmp_path}/set", items, request, left_out=left_out)
    lines = [
        "left out: 1 hidden files and folders, the first is plain/.DS_Store",
        "left out: 1 images of a format that is not decoded (.heic), the first is plain/photo.heic",
    ]
    assert report["left_out"] == lines and set(lines) <= set(report_lines(dataset, report))
    assert dataset.read("pool").ids == [r"pool/caf\xe9.png"]


def test_a_file_that_is_gone_is_quarantined(tmp_path: Path) -> None:
    source = shop(tmp_path / "shop")
    items = [*folder_items(str(source)), Item("gone", str(tmp_path / "gone.png"), "dots")]
    _, report = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    assert report["quarantined"] == {"gone": "there is no such file"}


def test_a_class_of_which_no_image_can_be_used_is_said_with_the_commonest_reason(
    tmp_path: Path,
) -> None:
    source = shop(tmp_path / "shop")
    items = folder_items(str(source))
    for number in range(0, 60, 2):
        (source / f"plain/{number:03d}.png").write_bytes(b"words" if number else b"")
    expected = r"none of 30 labelled images of the class 'plain' .* for 29 .*: not an image; .*002"
    with pytest.raises(InputError, match=expected):
        build_dataset(str(tmp_path / "set"), items, SETTINGS)
    expected = f"none of 60 labelled images can be used; for 60 .*: {tmp_path}/away/dots/001.png: "
    away = [replace(item, uri=item.uri.replace("/shop/", "/away/")) for item in items]
    with pytest.raises(InputError, match=f"{expected}there is no such file"):
        build_dataset(str(tmp_path / "set"), away, SETTINGS)
    assert not (tmp_path / "set" / MANIFEST).exists()


def test_what_cannot_become_a_dataset_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    items = [Item(f"{n}.png", f"/none/{n}.png", "ab"[n % 2]) for n in range(40)]
    with pytest.raises(InputError, match="no image is left for val: .*by val_share 0.01"):
        build_dataset(str(tmp_path / "set"), items, SETTINGS.model_copy(update={"val_share": 0.01}))
    # four of each class stand alone and go to test, the others in groups too large for val
    groups = [
        Item(str(n), "", "ab"[n % 2], group=f"{n % 2} {n // 40}" if n >= 8 else None)
        for n in range(80)
    ]
    with pytest.raises(InputError, match="no image is left for val.* largest group.* 20;"):
        build_dataset(str(tmp_path / "set"), groups, SETTINGS)
    one = [replace(item, label="a") for item in items]
    with pytest.raises(InputError, match="all labels are 'a', but a classifier needs two classes"):
        build_dataset(str(tmp_path / "set"), one, SETTINGS)
    with pytest.raises(InputError, match="a slice cannot be named 'label'"):
        build_dataset(
            str(tmp_path / "set"), [replace(i, slices={"label": "x"}) for i in items], SETTINGS
        )
    assert not (tmp_path / "set").exists()


def test_names_that_are_not_text_are_written_with_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "READ_ATTEMPTS", 1)
    source = shop(tmp_path / "shop")
    items = folder_items(str(source))
    strange = os.fsdecode(b"\xe9.png")
    items[0] = replace(items[0], image_id=strange, slices={"s": strange}, group=strange)
    items[1] = replace(items[1], uri=f"{source}/dots", image_id=f"a{strange}")  # cannot be read
    items[2] = replace(items[2], uri=str(source / strange))
    to = tmp_path / os.fsdecode(b"caf\xe9")
    built, report = build_dataset(str(to), items, SETTINGS.model_copy(update={"name": None}))
    assert built.manifest.name == r"caf\xe9"
    ids = [
        i for split in ("train", "val", "test") for i in built.column(split, "image_id").to_pylist()
    ]
    assert r"\xe9.png" in ids
    assert set(report["quarantined"]) == {r"a\xe9.png", items[2].image_id}
    assert json.loads((to / "report.json").read_text()) == report


def test_a_full_machine_is_no_reason_to_set_an_image_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(item: Item) -> bytes:
        raise MemoryError

    source = shop(tmp_path / "shop")
    monkeypatch.setattr(Item, "read", full)
    with pytest.raises(MemoryError):
        build(source, tmp_path / "set")
    assert not (tmp_path / "set" / MANIFEST).exists()


def test_two_processes_build_the_dataset_of_one(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    alone, _ = build_dataset(str(tmp_path / "one"), items, SETTINGS)
    seen: list[int] = []
    together, _ = build_dataset(
        str(tmp_path / "two"),
        items,
        SETTINGS,
        processes=2,
        progress=lambda done, total: seen.append(done),
    )
    assert together.manifest == alone.manifest
    assert seen[0] == 0 and seen[-1] == 60 and seen == sorted(seen)


@dataclass(frozen=True)
class Gone(Inside):
    """An image whose storage is away."""

    def read(self, uri: str) -> bytes:
        raise StorageGoneError("the storage of raw is away")


def test_an_error_in_a_process_is_said(tmp_path: Path) -> None:
    items = folder_items(str(shop(tmp_path / "shop")))
    items[0] = replace(items[0], inside=Gone())
    with pytest.raises(StorageGoneError, match="the storage of raw is away"):
        build_dataset(str(tmp_path / "set"), items, SETTINGS, processes=2)
