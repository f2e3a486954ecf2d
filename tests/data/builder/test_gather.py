from pathlib import Path

import pytest
from tests.helpers.shop import tile

from semigrid.data.builder.gather import gather
from semigrid.data.builder.request import BuildRequest
from semigrid.data.errors import InputError


def images(folder: Path, *names: str) -> None:
    """Two images in each of the folders."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for which in (0, 1):
            (folder / name / f"{which}.png").write_bytes(tile(2 * number + which))


def test_one_class_is_refused_with_the_deeper_folder(tmp_path: Path) -> None:
    images(tmp_path, "photos/all/cats", "photos/all/dogs", "photos/all/birds/small")
    with pytest.raises(InputError, match=f"did you mean {tmp_path}/photos/all, which has 3") as it:
        gather(BuildRequest(source=str(tmp_path)))
    assert "all images are in the folder 'photos'" in str(it.value)
    items, _ = gather(BuildRequest(source=f"{tmp_path}/photos/all"))
    assert {item.label for item in items} == {"birds", "cats", "dogs"}


@pytest.mark.parametrize("table", ["labels.csv", "meta/labels.tsv"])
def test_photographs_and_a_table_are_no_class(tmp_path: Path, table: str) -> None:
    images(tmp_path, "images")
    (tmp_path / table).parent.mkdir(exist_ok=True)
    (tmp_path / table).write_text("image,label\nimages/0.png,a\nimages/1.png,b\n")
    with pytest.raises(InputError, match=f"are the labels in {tmp_path}/{table}"):
        gather(BuildRequest(source=str(tmp_path)))
    (tmp_path / "beside.png").write_bytes(tile(9))
    with pytest.raises(InputError, match=f"beside.png.*are the labels in {tmp_path}/{table}"):
        gather(BuildRequest(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "kind"), [("data/train-0.parquet", "parquet"), ("x-0.tar", "webdataset")]
)
def test_a_folder_without_images_may_hold_them_packed(tmp_path: Path, file: str, kind: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"packed")
    with pytest.raises(InputError, match=f"no image here(?s:.*){file}.? Then add --kind {kind}"):
        gather(BuildRequest(source=str(tmp_path)))


def test_splits_are_no_classes_unless_they_are_named(tmp_path: Path) -> None:
    images(tmp_path, "train/cats", "train/dogs", "Test/cats", "Test/dogs")
    items, _ = gather(BuildRequest(source=str(tmp_path)))
    assert {(item.split, item.label) for item in items} == {
        (split, label) for split in ("train", "test") for label in ("cats", "dogs")
    }
    items, _ = gather(BuildRequest(source=str(tmp_path), splits="new"))
    assert {(item.split, item.label) for item in items} == {(None, "cats"), (None, "dogs")}
    items, _ = gather(BuildRequest(source=str(tmp_path), classes=["train", "Test"]))
    assert {item.label for item in items} == {"train", "Test"}


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    images(tmp_path, "train/toys", "train/steam", "car/red")
    items, _ = gather(BuildRequest(source=str(tmp_path)))
    assert {(item.split, item.label) for item in items} == {(None, "train"), (None, "car")}


def test_folders_that_cannot_be_splits_are_named(tmp_path: Path) -> None:
    images(tmp_path, "a/train", "a/test")
    with pytest.raises(InputError, match="test, train look like splits, not classes, and have no"):
        gather(BuildRequest(source=f"{tmp_path}/a"))
    images(tmp_path, "b/train/cats", "b/train/dogs", "b/valid/cats", "b/extra/cats")
    with pytest.raises(InputError, match="train, valid look like splits, but 'extra' does not"):
        gather(BuildRequest(source=f"{tmp_path}/b"))
    images(tmp_path, "c/train/cats", "c/train/dogs", "c/test/cats")
    (tmp_path / "c/train/stray.png").write_bytes(tile(99))
    with pytest.raises(InputError, match="train/stray.png is outside the class folders of the sp"):
        gather(BuildRequest(source=f"{tmp_path}/c"))
    with pytest.raises(InputError, match="split_column is for tables and image Parquet, and"):
        gather(BuildRequest(source=f"{tmp_path}/c", split_column="split"))


def test_images_that_answers_label_need_no_class_folders(tmp_path: Path) -> None:
    images(tmp_path / "photos", "images")
    (tmp_path / "answers.csv").write_text(
        "task,worker,label\nimages/0.png,w,a\nimages/0.png,v,a\nimages/1.png,w,b\nimages/1.png,v,b\n"
    )
    request = BuildRequest(source=f"{tmp_path}/photos", answers=f"{tmp_path}/answers.csv")
    items, _ = gather(request)
    assert [item.label for item in items] == ["a", "b"]


def test_gold_is_one_label_of_an_image_whatever_it_is_called(tmp_path: Path) -> None:
    images(tmp_path / "photos", "images")
    answers = "".join(f"images/{n}.png,{w},{'ab'[n]}\n" for n in (0, 1) for w in "vw")
    (tmp_path / "answers.csv").write_text(f"task,worker,label\n{answers}")
    request = BuildRequest(
        source=f"{tmp_path}/photos", answers=f"{tmp_path}/answers.csv", gold=f"{tmp_path}/gold.csv"
    )
    (tmp_path / "gold.csv").write_text("task,label\n0.png,a\nimages/0.png,A\n0.png,a\n")
    with pytest.raises(InputError, match="'images/0.png' is labelled 'A', but '0.png', the same"):
        gather(request)
    items, _ = gather(request.model_copy(update={"normalize": True}))
    assert [item.label for item in items] == ["a", "b"]
