import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from semigrid.data.builder.builtin import DIGITS
from semigrid.data.builder.builtin import digits as digit_rows
from semigrid.data.builder.check import check_dataset
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import MANIFEST, Dataset, Split, check_shard, read_row_group
from semigrid.data.storage import open_storage


def grey_png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), value).save(buffer, "png")
    return buffer.getvalue()


def row(number: int, split: Split, label: int | None = None) -> StoredImage:
    return StoredImage(f"image-{number}", grey_png(number), label, split, f"image-{number}")


ROWS = [
    *[row(i, "train", i % 2) for i in range(10)],
    *[row(i, "val", i % 2) for i in range(10, 14)],
    *[row(i, "test", i % 2) for i in range(14, 18)],
    *[row(i, "pool") for i in range(18, 30)],
]


def write(folder: Path | str, rows: list[StoredImage] = ROWS, **settings: Any) -> Dataset:
    facts = {"name": "greys", "classes": ["even", "odd"], "license": "CC0", "source": "tests"}
    return write_dataset(str(folder), rows, rows_per_group=3, **(facts | settings))


def test_digits_are_the_documented_sets(digits: Dataset) -> None:
    counts = digits.manifest.counts
    assert counts["test"] == {str(digit): 20 for digit in range(10)}
    assert sum(sum(of_split.values()) for of_split in counts.values()) == 597
    assert digits.manifest.pool == digits.rows_in("pool") == 1200
    assert digits.manifest.pool_unit == 300
    for split in ("train", "val", "test"):
        labels = digits.read(split).labels
        assert Counter(labels.tolist()) == {int(k): n for k, n in counts[split].items()}


def test_digits_keep_their_pixels_and_hide_the_pool_labels(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    seen = []
    for split in ("train", "val", "test", "pool"):
        table = digits.read(split)
        seen += table.ids
        for row in range(20):
            number = int(table.ids[row].removeprefix("digit-"))
            pixels = np.asarray(Image.open(io.BytesIO(table.images[row])))
            assert np.array_equal(pixels, (source.images[number] * 255 / 16).astype(np.uint8))
            assert table.labels[row] == (-1 if split == "pool" else source.target[number])
    assert len(seen) == len(set(seen)) == 1797


def test_the_digits_fingerprint_is_the_same_on_every_machine(digits: Dataset) -> None:
    # a new fingerprint makes every trial of every user new: raise DIGITS_VERSION with it
    assert digits.manifest.fingerprint == (
        "5547cf6e0db405275ec4728d3c742d068fe258e97823e7a9c6b5d6ef581c510f"
    )


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    rows = digit_rows()
    first = write_dataset(str(tmp_path / "a"), rows, **DIGITS)
    second = write_dataset("memory://fingerprint", rows, **DIGITS)
    assert first.manifest == second.manifest


def test_the_fingerprint_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    # sources list files in whatever order the file system has
    first, second = write(tmp_path / "a"), write(tmp_path / "b", ROWS[::-1])
    assert first.manifest == second.manifest


@pytest.mark.parametrize(
    "changed",
    [
        StoredImage("image-0", grey_png(99), 0, "train", "image-0"),  # other pixels
        StoredImage("image-0", grey_png(0), 1, "train", "image-0"),  # another label
        StoredImage("image-0", grey_png(0), 0, "val", "image-0"),  # another split
        StoredImage("image-x", grey_png(0), 0, "train", "image-0"),  # another id
    ],
)
def test_the_fingerprint_changes_with_any_row(tmp_path: Path, changed: StoredImage) -> None:
    before = write(tmp_path / "a").manifest.fingerprint
    assert write(tmp_path / "b", [changed, *ROWS[1:]]).manifest.fingerprint != before


def test_shards_are_hugging_face_image_tables(digits: Dataset) -> None:
    file = digits.manifest.shards[0].file
    schema = pq.read_schema(digits.storage.location(file))
    image = schema.field("image").type
    assert {image.field(i).name: str(image.field(i).type) for i in range(image.num_fields)} == {
        "bytes": "binary",
        "path": "string",
    }
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(schema.names)


def test_row_groups_of_the_manifest_are_those_of_the_files(tmp_path: Path) -> None:
    # the stream reads row groups by what the manifest says
    dataset = write(tmp_path, groups_per_shard=2)
    ids = []
    for group in dataset.row_groups("pool"):
        part = pq.ParquetFile(tmp_path / group.file).read_row_group(group.index)
        assert (group.start, group.rows) == (len(ids), len(part))
        ids += part["image_id"].to_pylist()
    assert len(dataset.row_groups("pool")) == 4  # 12 rows, 3 a group, 2 groups a shard
    assert [shard.rows for shard in dataset.manifest.shards if shard.split == "pool"] == [6, 6]
    assert ids == dataset.read("pool").ids


def test_read_returns_the_rows_asked_for(tmp_path: Path) -> None:
    dataset = write(tmp_path, groups_per_shard=1)
    everything = dataset.read("train")
    part = dataset.read("train", np.array([7, 0, 3]))
    assert part.ids == [everything.ids[i] for i in (7, 0, 3)]
    assert part.labels.tolist() == [everything.labels[i] for i in (7, 0, 3)]
    for image_id, content in zip(part.ids, part.images, strict=True):
        number = int(image_id.removeprefix("image-"))
        assert np.asarray(Image.open(io.BytesIO(content)))[0, 0] == number
    assert dataset.train_labels.tolist() == everything.labels.tolist()


def test_without_its_manifest_it_is_no_dataset(tmp_path: Path) -> None:
    # what a build that was killed half way leaves: shards, and no manifest yet
    write(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"no dataset here \(dataset.json is missing\)") as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match=f"{tmp_path}/nowhere: no dataset here"):
        open_dataset(f"{tmp_path}/nowhere")


def test_a_later_format_is_named_even_if_it_has_new_fields(tmp_path: Path) -> None:
    # "build the dataset again" would be bad advice for a file that a newer version wrote
    write(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    later = manifest | {"format": 2, "slices": ["marketplace"]}
    (tmp_path / MANIFEST).write_text(json.dumps(later))
    expected = f"{tmp_path}/{MANIFEST}: format: format 2, this version reads 1"
    with pytest.raises(InputError, match=expected):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}', "\xff"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="build the dataset again") as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path / MANIFEST) in str(caught.value)


def change(folder: Path, **keys: Any) -> None:
    """Changes keys of a manifest, those of its first shard by ``shard_…``."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for key, value in keys.items():
        if key.startswith("shard_"):
            manifest["shards"][0][key.removeprefix("shard_")] = value
        else:
            manifest[key] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))


COUNTS = {"train": {"even": 5, "odd": 5}, "val": {"even": 2, "odd": 2}}
HUGE = 10**400


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"shard_file": "../../etc/passwd"}, "shards.0.file: "),
        ({"shard_file": "../other/train-00000.parquet"}, "shards.0.file: "),
        ({"shard_file": "/etc/train-00000.parquet"}, "shards.0.file: "),
        ({"shard_file": "b/a.parquet"}, "shards.0.file: "),
        ({"shard_file": "./a.parquet"}, "shards.0.file: "),
        ({"shard_file": ".."}, "shards.0.file: "),
        ({"shard_file": "a::b.parquet"}, "shards.0.file: "),
        ({"shard_file": "s3://bucket/a.parquet"}, "shards.0.file: "),
        ({"shard_file": "val-00000.parquet"}, "the shard 'val-00000.parquet' occurs twice"),
        ({"shard_row_groups": [HUGE]}, "shards.0.row_groups.0: "),
        ({"shard_row_groups": [-3, 13]}, "shards.0.row_groups.0: "),
        ({"shard_row_groups": []}, "shards.0.row_groups: "),
        ({"shard_row_groups": [10**15]}, "bytes cannot hold 1,000,000,000,000,000 images"),
        ({"shard_row_groups": [3, 3, 3]}, "10 images in train, but its shards have 9"),
        ({"shard_split": "other"}, "shards.0.split: "),
        ({"shard_sha256": "x"}, "shards.0.sha256: "),
        ({"shards": []}, "10 images in train, but its shards have 0"),
        ({"shards": {}}, "shards: "),
        ({"shards": [7]}, "shards.0: "),
        ({"classes": ["even", "even"]}, "the class 'even' occurs twice"),
        ({"classes": ["even", "odd", "third"]}, "its classes are not those of the dataset"),
        ({"classes": None}, "classes: "),
        ({"counts": COUNTS}, "the split 'test' has no images"),
        ({"counts": {**COUNTS, "test": {"even": -2, "odd": 4}}}, "counts.test.even: "),
        ({"counts": {**COUNTS, "test": {"even": float("nan"), "odd": 4}}}, "counts.test.even: "),
        ({"counts": {**COUNTS, "test": {"even": 2, "odd": 3}}}, "5 images in test, but .* 4;"),
        ({"counts": {**COUNTS, "test": {"even": 2}}}, "its classes are not those"),
        ({"pool": 13}, "13 images in pool, but its shards have 12"),
        ({"pool": HUGE}, "pool: "),
        ({"pool_unit": -1}, "pool_unit: "),
        ({"pool_unit": 1e400}, "pool_unit: "),
        ({"order_seed": HUGE}, "order_seed: "),
        ({"slices": ["label"]}, "the column 'label' occurs twice"),
        ({"slices": ["a", "a"]}, "the column 'a' occurs twice"),
        ({"name": "\ud800"}, "dataset.json: Invalid JSON"),
        ({"name": ["a"] * 2}, "name: "),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    tmp_path: Path, keys: dict[str, Any], expected: str
) -> None:
    write(tmp_path)
    change(tmp_path, **keys)
    with pytest.raises(InputError, match=expected) as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_manifest_of_any_depth_or_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"counts": ' + "[" * 100_000)
    with pytest.raises(InputError, match="dataset.json: Invalid JSON"):
        open_dataset(str(tmp_path))
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="dataset.json: cannot be read: not a regular file"):
        open_dataset(str(tmp_path))
    (tmp_path / MANIFEST).unlink()
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(InputError, match="dataset.json: cannot be read: not a regular file"):
        open_dataset(str(tmp_path))


def test_shards_may_be_links_as_in_caches(tmp_path: Path) -> None:
    whole = write(tmp_path / "blobs").read("val")
    snapshot = tmp_path / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    for path in (tmp_path / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    dataset = open_dataset(str(snapshot))
    assert dataset.read("val").images == whole.images
    assert read_row_group(dataset.storage, dataset.row_groups("pool")[0])
    other = snapshot / "val-00000.parquet"
    other.unlink()
    other.symlink_to("../../blobs/test-00000.parquet")  # of the same size and kind
    check_shard.cache_clear()
    with pytest.raises(InputError, match="val-00000.parquet: not the shard"):
        open_dataset(str(snapshot)).read("val")


@pytest.mark.parametrize("target", ["a pipe", "/dev/zero", "/dev"])
def test_a_shard_that_is_no_file_is_refused_at_once(tmp_path: Path, target: str) -> None:
    write(tmp_path / "set")
    shard = tmp_path / "set" / "val-00000.parquet"
    shard.unlink()
    if target == "a pipe":
        os.mkfifo(tmp_path / "pipe")
    shard.symlink_to(tmp_path / "pipe" if target == "a pipe" else target)
    with pytest.raises(InputError, match="val-00000.parquet: not a file"):
        open_dataset(str(tmp_path / "set"))


def test_a_shard_that_is_not_what_the_manifest_says(tmp_path: Path) -> None:
    """Somebody else's dataset, with hashes that fit."""
    write(tmp_path)
    path = tmp_path / "train-00000.parquet"
    good = pq.read_table(path)

    def refused(content: pa.Table | bytes, expected: str) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path, row_group_size=3, compression="none")
        change(tmp_path, shard_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        dataset = open_dataset(str(tmp_path))
        with pytest.raises(InputError, match=f"train-00000.parquet: not what .*: {expected}"):
            _ = dataset.train_labels
        assert check_dataset(dataset) != []

    labels = good.schema.get_field_index("label")
    refused(b"PAR1" + bytes(5000) + b"PAR1", "")
    refused(b"words" * 100, "")
    refused(good.slice(0, 4), "it has 4 rows in 2 row groups, not 10 in 4")
    refused(good.drop_columns("label"), "it has no column 'label'")
    for values, kind, expected in (
        ([0.5] * 10, pa.float64(), "its column 'label' is double, not int64"),
        ([0, 1] * 4 + [0, 10**12], pa.int64(), "it has labels other than 0 to 1"),
        ([0, 1] * 4 + [0, -1], pa.int64(), "it has labels other than 0 to 1"),
        ([0, 1] * 4 + [0, None], pa.int64(), "it has labels other than 0 to 1"),
        ([None] * 10, pa.int64(), "it has labels other than 0 to 1"),
    ):
        changed = good.set_column(labels, "label", pa.array(values, kind))
        refused(changed, expected)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val-00000.parquet").unlink()
    with pytest.raises(InputError, match="1 of 4 shards are missing.*val-00000.parquet") as caught:
        open_dataset(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_an_unknown_builtin_names_those_there_are() -> None:
    with pytest.raises(InputError, match="builtin://letters.*there are builtin://digits"):
        open_dataset("builtin://letters")


def test_a_dataset_without_a_pool_reads_as_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path, [r for r in ROWS if r.split != "pool"])
    # in a process of its own: what another module has imported must not matter
    code = (
        "import sys; from semigrid.data.catalog import open_dataset; "
        "print(len(open_dataset(sys.argv[1]).read('pool')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("split", ["train", "val", "test", "pool"])
def test_a_shard_of_another_build_is_not_read(tmp_path: Path, split: Split) -> None:
    dataset = write(tmp_path / "mine")
    # as many images of the same classes under the same name, but other ones
    others = [row(100 + int(r.image_id[6:]), r.split, r.label) for r in ROWS]
    write(tmp_path / "other", others)
    file = f"{split}-00000.parquet"
    (tmp_path / "mine" / file).write_bytes((tmp_path / "other" / file).read_bytes())
    problem = f"{file}: not the shard that dataset.json beside it names"
    for work in (
        lambda: dataset.read(split),
        lambda: dataset.column(split, "group"),
        lambda: dataset.images(split, {"image-101"}),
    ):
        with pytest.raises(InputError, match=problem):
            work()
    assert len(dataset.column(split, "group", check=False)) == dataset.rows_in(split)
    (group, *_) = dataset.row_groups(split)
    with pytest.raises(InputError, match=problem):  # as a pool is streamed
        read_row_group(dataset.storage, group)
    if split == "train":
        with pytest.raises(InputError, match=problem):
            _ = dataset.train_labels
    for whole in {"train", "val", "test", "pool"} - {split}:
        assert len(dataset.read(whole))


def test_a_shard_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "set").read("train")
    names = {path.name for path in (tmp_path / "cache" / "hashes").iterdir()}
    check_shard.cache_clear()  # as in another process
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert len(open_dataset(str(tmp_path / "set")).read("train")) == 10
    file = tmp_path / "set" / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"2")
    check_shard.cache_clear()
    with pytest.raises(InputError, match="not the shard"):
        open_dataset(str(tmp_path / "set")).read("train")
    assert names < {path.name for path in (tmp_path / "cache" / "hashes").iterdir()}


def test_a_shard_that_is_away_is_a_fault_of_the_machine(digits: Dataset, tmp_path: Path) -> None:
    shutil.copytree(digits.storage.uri, tmp_path / "set")
    (group, *_) = open_dataset(str(tmp_path / "set")).row_groups("train")
    (tmp_path / "set").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        read_row_group(open_storage(tmp_path / "set"), group)
