"""Splits that sources come with, through whole builds, image by image."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers.shop import tile

from semigrid.data.builder.gather import gather
from semigrid.data.builder.ingest import build_dataset
from semigrid.data.builder.report import report_lines
from semigrid.data.builder.request import BuildRequest
from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.sources.items import Item
from semigrid.data.sources.left_out import LeftOut

# what a source calls each split, ours, and the numbers of its images; odd ones are dots
NAMES = {"training": "train", "validation": "val", "test": "test", "unlabeled": "pool"}
PARTS = {"training": range(24), "validation": range(24, 32), "test": range(32, 40)}
PARTS |= {"unlabeled": range(40, 46)}
# two of Parquet have their splits in a column, or in the names of folders
KINDS = ["folder", "table", "parquet", "parquet column", "parquet folders", "webdataset"]


def label_of(number: int, split: str) -> str:
    return "" if split == "unlabeled" else ("plain", "dots")[number % 2]


def source(folder: Path, kind: str, parts: dict[str, Any]) -> str:
    """The numbered images of each split as a source of the kind."""
    folder.mkdir()
    rows = [(number, split) for split, numbers in parts.items() for number in numbers]
    if kind in ("folder", "table"):
        for number, split in rows:
            path = folder / (split if kind == "folder" else "") / label_of(number, split)
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{number}.png").write_bytes(tile(number))
        if kind == "folder":
            return str(folder)
        lines = [f"{label_of(n, s)}/{n}.png,{label_of(n, s)},{s}" for n, s in rows]
        lines = [line.removeprefix("/") for line in lines]
        (folder / "images.csv").write_text("\n".join(["image,label,split", *lines]))
        return str(folder / "images.csv")
    if kind == "parquet column":
        for half in (0, 1):  # each file has some of every split
            own = rows[half::2]
            columns = image_columns(*own)
            columns["Split"] = [split for _, split in own]
            pq.write_table(pa.table(columns), folder / f"part-{half}.parquet", row_group_size=5)
        return str(folder)
    for split, numbers in parts.items():
        if kind.startswith("parquet"):
            for half in (0, 1):
                file = folder / f"{split}-{half:05d}-of-00002.parquet"
                if kind == "parquet folders":
                    file = folder / split / f"{half:04d}.parquet"
                    file.parent.mkdir(exist_ok=True)
                columns = image_columns(*((number, split) for number in numbers[half::2]))
                pq.write_table(pa.table(columns), file)
        else:
            with tarfile.open(folder / f"shop-{split}-000.tar", "w") as tar:
                for n in numbers:
                    files = {"png": tile(n), "cls": label_of(n, split).encode()}
                    for ending, content in files.items():
                        member = tarfile.TarInfo(f"{n}.{ending}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return str(folder)


def image_columns(*images: tuple[int, str]) -> dict[str, list[Any]]:
    """The columns of Hugging Face's image Parquet, of numbered images and their splits."""
    return {
        "image": [{"bytes": tile(number), "path": None} for number, _ in images],
        "label": [label_of(number, split) for number, split in images],
    }


def build(uri: str, to: Path, **settings: Any) -> tuple[Dataset, dict[str, Any]]:
    request = BuildRequest(source=uri, **settings)
    return build_dataset(str(to), gather(request)[0], request)


def split_of(dataset: Dataset) -> dict[int, tuple[str, int]]:
    """Split and class index of each image, by its number."""
    number_of = {tile(number): number for number in range(60)}
    found: dict[int, tuple[str, int]] = {}
    for split in ("train", "val", "test", "pool"):
        table = dataset.read(split)
        for image, label in zip(table.images, table.labels, strict=True):
            found[number_of[image]] = split, int(label)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_given_splits_survive_a_build_image_by_image(tmp_path: Path, kind: str) -> None:
    uri = source(tmp_path / "raw", kind, PARTS)
    dataset, report = build(uri, tmp_path / "set", kind=kind.split()[0])
    assert dataset.manifest.classes == ("dots", "plain")
    assert split_of(dataset) == {
        number: (NAMES[split], -1 if split == "unlabeled" else 1 - number % 2)
        for split, numbers in PARTS.items()
        for number in numbers
    }
    assert report["given_splits"] == {
        "images": {"train": 24, "val": 8, "test": 8, "pool": 6},
        "unlabeled": {},
        "labels_unused": 0,
        "drawn": [],
        "across": [],
    }
    (line,) = [line for line in report_lines(dataset, report) if "splits kept" in line]
    assert line.startswith("splits kept as the source gives them: ")
    assert line.endswith(" (--splits new draws all anew)")


@pytest.mark.parametrize("kind", KINDS)
def test_new_splits_are_drawn_when_asked(tmp_path: Path, kind: str) -> None:
    uri = source(tmp_path / "raw", kind, PARTS)
    dataset, report = build(uri, tmp_path / "set", kind=kind.split()[0], splits="new")
    assert report["given_splits"]["images"] == {}
    # 10 % of 40 labelled images in two classes
    found = split_of(dataset)
    assert dataset.manifest.counts["test"] == {"dots": 2, "plain": 2}
    assert {number for number, (split, _) in found.items() if split == "pool"} == {*range(40, 46)}


@pytest.mark.parametrize("kind", KINDS)
def test_val_is_drawn_from_train_where_only_test_is_given(tmp_path: Path, kind: str) -> None:
    uri = source(tmp_path / "raw", kind, {"train": range(40), "test": range(40, 46)})
    dataset, report = build(uri, tmp_path / "set", kind=kind.split()[0])
    found = split_of(dataset)
    assert {number for number, (split, _) in found.items() if split == "test"} == {*range(40, 46)}
    assert dataset.manifest.counts["val"] == {"dots": 3, "plain": 3}  # 15 % of 20 each
    assert report["given_splits"]["drawn"] == ["val"]
    assert any(", val drawn from train (" in line for line in report_lines(dataset, report))


def test_test_is_drawn_from_train_where_only_val_is_given(tmp_path: Path) -> None:
    uri = source(tmp_path / "raw", "folder", {"train": range(40), "valid": range(40, 46)})
    dataset, report = build(uri, tmp_path / "set")
    found = split_of(dataset)
    assert {number for number, (split, _) in found.items() if split == "val"} == {*range(40, 46)}
    assert dataset.manifest.counts["test"] == {"dots": 2, "plain": 2}  # 10 % of 40
    assert report["given_splits"]["drawn"] == ["test"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_leaking_pair_is_named_and_the_copy_in_test_stays(tmp_path: Path, kind: str) -> None:
    # 33 is in train and test, 25 in train and val
    parts = {"train": [*range(24), 33, 25], "val": range(24, 32), "test": range(32, 40)}
    table = kind == "table"
    uri = _with_copies(tmp_path) if table else source(tmp_path / "raw", kind, parts)
    dataset, report = build(uri, tmp_path / "set", kind=kind.split()[0])
    found = split_of(dataset)
    assert found[33][0] == "test" and found[25][0] == "val"
    assert Counter(split for split, _ in found.values()) == {"train": 24, "val": 8, "test": 8}
    across = report["given_splits"]["across"]
    assert {(pair["of"], pair["in"], pair["why"]) for pair in across} == {
        ("train", "val", "duplicate"),
        ("train", "test", "duplicate"),
    }
    lines = "\n".join(report_lines(dataset, report))
    assert "2 images lay across given splits and are left out: " in lines
    assert f"{across[0]['left_out']} (train) shows the same as {across[0]['stays']} (" in lines
    assert (
        json.loads((tmp_path / "set/report.json").read_text())["given_splits"]
        == (report["given_splits"])
    )


def _with_copies(folder: Path) -> str:
    """A table with copies of two images, as files of their own, in train."""
    parts = {"train": range(24), "val": range(24, 32), "test": range(32, 40)}
    table = Path(source(folder / "raw", "table", parts))
    lines = table.read_text().splitlines()
    for number in (25, 33):
        (table.parent / f"copy-{number}.png").write_bytes(tile(number))
        lines.append(f"copy-{number}.png,dots,train")
    table.write_text("\n".join(lines))
    return str(table)


def test_groups_across_given_splits_leave_the_training_side(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    product = {0: "p", 2: "p", 26: "p", 32: "p", 4: "q", 27: "q"}
    header, *rows = table.read_text().splitlines()
    numbers = [int(Path(row.split(",")[0]).stem) for row in rows]
    rows = [f"{row},{product.get(n, n)}" for row, n in zip(rows, numbers, strict=True)]
    table.write_text("\n".join([f"{header},product", *rows]))
    dataset, report = build(str(table), tmp_path / "set", group_column="product")
    found = split_of(dataset)
    assert {*range(46)} - {*found} == {0, 2, 26, 4}
    assert found[32][0] == "test" and found[27][0] == "val"
    assert {"left_out": "plain/26.png", "of": "val", "stays": "plain/32.png"}.items() <= next(
        pair for pair in report["given_splits"]["across"] if pair["of"] == "val"
    ).items()


def test_a_test_split_without_labels_joins_the_pool(tmp_path: Path) -> None:
    # as competitions give it: class folders in train, and none in test
    root = Path(source(tmp_path / "raw", "folder", {"train": range(40)}))
    (root / "test").mkdir()
    for number in range(40, 46):
        (root / "test" / f"{number}.png").write_bytes(tile(number))
    dataset, report = build(str(root), tmp_path / "set")
    assert dataset.manifest.pool == 6 and report["given_splits"]["drawn"] == ["val", "test"]
    lines = report_lines(dataset, report)
    assert (
        "splits kept as the source gives them: 40 train, val and test drawn from train (--splits "
        "new draws all anew)"
    ) in lines
    assert "6 images of the given test have no label and join the pool" in lines


def test_labels_of_images_given_as_unlabeled_are_counted(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    table.write_text(table.read_text().replace(",,unlabeled", ",plain,unlabeled", 4))
    dataset, report = build(str(table), tmp_path / "set")
    assert dataset.manifest.pool == 6 and report["given_splits"]["labels_unused"] == 4
    assert (
        "4 images that are given as unlabeled have a label, which is not used (--splits new uses "
        "it)"
    ) in report_lines(dataset, report)
    dataset, report = build(str(table), tmp_path / "new", splits="new")
    assert dataset.manifest.pool == 2 and report["given_splits"]["labels_unused"] == 0


def test_leaks_into_a_given_test_are_named_on_screen(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    (tmp_path / "more").mkdir()
    (tmp_path / "more/copy.png").write_bytes(tile(33))
    header, *rows = table.read_text().splitlines()
    product = {0: "p", 40: "p", 32: "q", 41: "q"}
    numbers = [int(Path(row.split(",")[0]).stem) for row in rows]
    rows = [f"{row},{product.get(n, n)}" for row, n in zip(rows, numbers, strict=True)]
    table.write_text("\n".join([f"{header},product", *rows]))
    settings: dict[str, Any] = {"group_column": "product", "pool": [str(tmp_path / "more")]}
    lines = report_lines(*build(str(table), tmp_path / "set", **settings))
    assert (
        "1 images lay across given splits and are left out: pool/copy.png (pool) shows the same as "
        "dots/33.png (test)"
    ) in lines
    assert (
        "2 pool images share a group with labelled ones and are left out: 41.png is in the group "
        "of plain/32.png (test), …"
    ) in lines


def test_copies_with_other_labels_are_said_by_what_became_of_them(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    # 0 and 32 are plain
    copies = {"a": (0, "dots", "train"), "b": (32, "dots", "train")}
    for name, (number, _, _) in copies.items():
        (table.parent / f"{name}.png").write_bytes(tile(number))
    rows = [f"{name}.png,{label},{split}" for name, (_, label, split) in copies.items()]
    table.write_text("\n".join([table.read_text(), *rows]))
    lines = report_lines(*build(str(table), tmp_path / "set"))
    first = "the first: a.png (dots), plain/0.png (plain)"
    assert f"1 images have two labels and keep none, {first}" in lines
    first = "the first: b.png (dots), plain/32.png (plain)"
    assert f"1 images have two labels and keep that of val or test, {first}" in lines


def test_a_class_that_a_given_split_lacks_is_named(tmp_path: Path) -> None:
    even = [n for n in range(24) if n % 2 == 0]
    lacking = source(tmp_path / "a", "folder", {"train": range(24), "test": range(30, 40, 2)})
    expected = "1 of 2 classes has no image in the given test: dots 12; .*--splits new"
    with pytest.raises(InputError, match=expected):
        build(lacking, tmp_path / "set")
    with pytest.raises(InputError, match="has no image in the given train, .*: dots 8; .* new"):
        build(source(tmp_path / "b", "folder", {"train": even, "test": range(24, 40)}), tmp_path)
    with pytest.raises(InputError, match="no labelled image is in train"):
        build(source(tmp_path / "c", "folder", {"val": even, "test": range(24, 40)}), tmp_path)


def test_a_column_of_splits_by_another_name(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    table.write_text(table.read_text().replace("image,label,split", "image,label,part"))
    drawn, _ = build(str(table), tmp_path / "drawn")
    assert drawn.manifest.counts["test"] == {"dots": 2, "plain": 2}
    given, _ = build(str(table), tmp_path / "given", split_column="part")
    assert given.manifest.counts["test"] == {"dots": 4, "plain": 4}
    table.write_text(table.read_text().replace(",validation", ",later"))
    with pytest.raises(InputError, match="row 25 has the split 'later'; allowed are train, train"):
        build(str(table), tmp_path / "bad", split_column="part")


def test_a_found_column_is_kept_whatever_its_case_and_an_odd_value_is_an_error(
    tmp_path: Path,
) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    table.write_text(table.read_text().replace("label,split", "label,Split"))
    assert Counter(item.split for item in items_of(str(table))[0]) == {
        "train": 24,
        "val": 8,
        "test": 8,
        "pool": 6,
    }
    for odd in ("holdout", "N/A"):
        lines = table.read_text().splitlines()
        lines[7] = f"{lines[7].rpartition(',')[0]},{odd}"
        (table.parent / "odd.csv").write_text("\n".join(lines))
        with pytest.raises(InputError, match=f"row 7 has the split '{odd}'; .*--splits new"):
            items_of(str(table.parent / "odd.csv"))
        assert {i.split for i in items_of(str(table.parent / "odd.csv"), splits="new")[0]} == {None}


def test_a_table_of_images_in_folders_of_splits_says_that_no_column_does(tmp_path: Path) -> None:
    table = Path(source(tmp_path / "raw", "table", PARTS))
    rows = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
    for number, row in enumerate(rows[1:]):
        path, _, rest = row.partition(",")
        moved = Path("images", ("train", "test")[number % 2], "all", Path(path).name)
        (table.parent / moved).parent.mkdir(parents=True, exist_ok=True)
        (table.parent / path).rename(table.parent / moved)
        rows[number + 1] = f"{moved},{rest}"
    table.write_text("\n".join(rows))
    items, lines = items_of(str(table))
    assert {item.split for item in items} == {None}
    said = (
        "(test, train), but the table has no column that says so; add one, named 'split', to keep"
    )
    assert len(lines) == 1 and said in lines[0]
    assert items_of(str(table), splits="new")[1] == []


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (("test", "5"), "the column 'split' does not hold splits, but '5' beside test"),
        (("0", "1"), "the column 'split' does not hold splits, but '0'"),
        (("train", ""), None),  # those of the others are drawn
        (("train", "train"), None),
    ],
)
def test_a_found_column_that_is_not_used_is_said(
    tmp_path: Path, values: tuple[str, str], note: str | None
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(tile(number))
    rows = [f"{n}.png,{'ab'[n % 2]},{values[n % 2]}" for n in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    items, lines = items_of(str(tmp_path / "t.csv"))
    assert lines == ([] if note is None else [f"all splits are drawn: {note}"])
    assert {item.split for item in items} == ({"train", None} if "" in values else {None})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train-00000-of-00002", "validation-00000-of-00001"], ["train", "val"]),
        (["imagenet1k-train-0003", "imagenet1k-Test-1"], ["train", "test"]),
        (["trainval", "test", "unlabeled-000"], ["train", "test", "pool"]),
        # words of the data's own name
        (["dev-shop-train-0", "dev-shop-test-0", "dev-shop-dev-0"], ["train", "test", "val"]),
        (["pool-tables-train", "pool-tables-test"], ["train", "test"]),
        # folders, at any depth and whatever lies above
        (["train/0", "test/1"], ["train", "test"]),
        (["train/0", "test/0"], ["train", "test"]),
        (["shirts/train2017/0", "vests/test2017/0"], ["train", "test"]),
        (["train/part-0", "train/part-1", "valid/part-0"], ["train", "train", "val"]),
        # one split, or none
        (["train-0", "train-1"], [None, None]),
        (["trains-0", "shop-1"], [None, None]),
    ],
)
@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_splits_in_names_of_files_and_folders(
    tmp_path: Path, kind: str, files: list[str], expected: list[str | None]
) -> None:
    ending = "tar" if kind == "webdataset" else "parquet"
    for number, name in enumerate(files):
        write_one(tmp_path / f"{name}.{ending}", number)
    found, lines = items_of(str(tmp_path), kind=kind)
    splits = {item.image_id.partition(f".{ending}/")[0]: item.split for item in found}
    assert splits == dict(zip(files, expected, strict=True)) and lines == []
    if "/" in files[0]:  # as a pattern
        stars = "/*" * files[0].count("/")
        again, _ = items_of(f"{tmp_path}{stars}/*.{ending}", kind=kind)
        assert again == found


def test_files_of_one_split_beside_others_are_said(tmp_path: Path) -> None:
    for number, name in enumerate(["train-0.tar", "extra.tar"]):
        write_one(tmp_path / name, number)
    items, lines = items_of(str(tmp_path), kind="webdataset")
    assert {item.split for item in items} == {None}
    assert lines == [
        "all splits are drawn: of the files 'train-0.tar' looks like a split, but 'extra.tar' does "
        "not"
    ]
    write_one(tmp_path / "test.tar", 2)
    with pytest.raises(InputError, match="look like splits, but 'extra.tar' does not; move it"):
        items_of(str(tmp_path), kind="webdataset")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["trainval", "test"], {"train": 2, "test": 2}),
        (["training_set", "test_set"], {"train": 2, "test": 2}),
        (["train2017", "val2017", "test2017"], {"train": 2, "val": 2, "test": 2}),
    ],
)
def test_folders_named_as_splits(
    tmp_path: Path, folders: list[str], expected: dict[str | None, int]
) -> None:
    for folder in folders:
        for label in ("plain", "dots"):
            (tmp_path / folder / label).mkdir(parents=True)
            (tmp_path / folder / label / "0.png").write_bytes(tile(0))
    items, lines = items_of(str(tmp_path))
    assert Counter(item.split for item in items) == expected and lines == []
    assert {item.label for item in items} == {"plain", "dots"}


def layered(folder: Path, *levels: str) -> str:
    """Images below ``<split>/<levels>/<class>``."""
    for split, numbers in {"train": range(30), "val": range(30, 36), "test": range(36, 46)}.items():
        for n in numbers:
            path = folder.joinpath(split, *levels, label_of(n, split), f"{n}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(tile(n))
    return str(folder)


def test_a_layer_between_splits_and_classes_is_no_class(tmp_path: Path) -> None:
    uri = layered(tmp_path / "raw", "images")
    (tmp_path / "raw" / "unlabeled" / "images").mkdir(parents=True)
    (tmp_path / "raw" / "unlabeled" / "images" / "50.png").write_bytes(tile(50))
    dataset, report = build(uri, tmp_path / "set")
    assert dataset.manifest.classes == ("dots", "plain")
    found = split_of(dataset)
    assert found[0] == ("train", 1) and found[31] == ("val", 0) and found[45] == ("test", 0)
    assert found[50] == ("pool", -1)
    left_out = LeftOut()
    gather(BuildRequest(source=uri), left_out)
    assert left_out.notes == [
        f"labels are the folders in {uri}/test/images, likewise in other splits"
    ]


def test_splits_whose_images_lie_in_one_folder_alone_are_said(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "images" / "1.png").write_bytes(tile(1))
    (tmp_path / "labels.csv").write_text("image,label\ntrain/images/1.png,dots\n")
    with pytest.raises(InputError) as caught:
        gather(BuildRequest(source=str(tmp_path)))
    said = str(caught.value)
    assert "every split has the folder 'images' alone, in which there are no class folders" in said
    assert f"put labelled images into {tmp_path}/train/<class>/ or" in said
    assert f"are the labels in {tmp_path}/labels.csv?" in said


@pytest.mark.parametrize(
    ("folders", "alike"),
    [
        (["bus", "train"], "'train'"),
        (["dresses", "test-tubes", "training-shoes"], "'test-tubes'"),
        (["bus", "dress"], None),
    ],
)
def test_classes_that_look_like_splits_are_said(
    tmp_path: Path, folders: list[str], alike: str | None
) -> None:
    for folder in folders:
        (tmp_path / folder / "new").mkdir(parents=True)
        (tmp_path / folder / "new/0.png").write_bytes(tile(0))
    items, lines = items_of(str(tmp_path))
    assert {(item.label, item.split) for item in items} == {(name, None) for name in folders}
    said = f"of the folders {alike} looks like a split, but {folders[0]!r} does not"
    assert lines == ([] if alike is None else [f"all splits are drawn: {said}"])


def test_a_column_of_image_parquet(tmp_path: Path) -> None:
    def found(folder: str, **settings: Any) -> tuple[list[str | None], list[str]]:
        items, lines = items_of(str(tmp_path / folder), kind="parquet", **settings)
        return [item.split for item in items], lines

    def write(file: str, metadata: Any = None, **column: list[Any]) -> None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        rows = len(next(iter(column.values())))
        columns = image_columns(*((number, "") for number in range(rows))) | column
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / file)

    # a column of one split says no more than none; the names of the files do
    write("names/train.parquet", split=["train"] * 2)
    write("names/test.parquet", split=["train"])
    assert found("names") == (["test", "train", "train"], [])
    # a column that only some files have, or of something else, is none, which is said
    write("some/a.parquet", split=["train", "test"])
    write("some/b.parquet", part=["train"])
    assert found("some") == ([None] * 3, [])
    write("other/a.parquet", split=["0", "1"])
    said = "all splits are drawn: the column 'split' does not hold splits, but '0'"
    assert found("other") == ([None] * 2, [said])
    write("odd/a.parquet", split=["train", "test"])
    write("odd/b.parquet", split=["train", "holdout"])
    with pytest.raises(InputError, match="odd/b.parquet: row 2 has the split 'holdout'; allowed"):
        found("odd")
    assert found("odd", splits="new") == ([None] * 4, [])
    # one of another name must be asked for, and be in every file
    write("asked/a.parquet", part=["dev", "", "Test"])
    assert found("asked") == ([None] * 3, [])
    assert found("asked", split_column="part") == (["val", None, "test"], [])
    with pytest.raises(InputError, match="some/a.parquet: there is no column 'part'; there are"):
        found("some", split_column="part")
    # Hugging Face's numbers, with names in the schema
    feature = {"split": {"names": ["train", "validation"], "_type": "ClassLabel"}}
    names = {"huggingface": json.dumps({"info": {"features": feature}})}
    write("numbers/a.parquet", names, split=[1, 0, -1])
    assert found("numbers") == (["val", "train", None], [])


def items_of(uri: str, **settings: Any) -> tuple[list[Item], list[str]]:
    """The images of a source, and what is said of the rest."""
    left_out = LeftOut()
    return gather(BuildRequest(source=uri, **settings), left_out)[0], left_out.lines()


def write_one(path: Path, number: int) -> None:
    """A tar or Parquet file with an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        images = [{"bytes": tile(number), "path": None}]
        pq.write_table(pa.table({"image": images, "label": ["plain"]}), path)
        return
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("0.png")
        member.size = len(tile(number))
        tar.addfile(member, io.BytesIO(tile(number)))
