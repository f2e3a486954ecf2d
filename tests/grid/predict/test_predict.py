"""Predictions without Ray: what is read, what the model says of it, and what lies in the folder."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.helpers import nasty
from tests.helpers.command import semigrid
from tests.helpers.experiments import experiment_text, plan_of
from tests.helpers.in_process import Grid

from semigrid.data.errors import InputError
from semigrid.data.ranges import Decoded, ImageRange, SplitRange, make_views
from semigrid.data.schema import Dataset
from semigrid.data.sources.left_out import LeftOut
from semigrid.data.storage import open_storage
from semigrid.data.storage.in_use import in_use
from semigrid.grid.commands.predict import predict
from semigrid.grid.predict import images as images_module
from semigrid.grid.predict.abstain import Calibration
from semigrid.grid.predict.folder import PredictionFolder
from semigrid.grid.predict.images import FileRange, Images, dataset_images, find_images
from semigrid.grid.predict.inference import WinnerModel, winner_model
from semigrid.grid.study.winner import find_winner
from semigrid.trainers.evaluation.predictions import Predictions, decode_predictions
from semigrid.trainers.layout import predictions_file, weights_file

CELL = "digits/vit/100%"
THRESHOLD = Calibration(None, 0.1025, 151, 100, 50, 0.4)


@dataclass(frozen=True)
class Trained:
    """A finished cell's model, and what its evaluation wrote of the test images."""

    grid: Grid
    folder: Path
    model: WinnerModel
    measured: Predictions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    where = tmp_path_factory.mktemp("run")
    text = experiment_text(
        grid=[{"model": "vit", "labels": ["100%"]}, {"model": "vit", "labels": ["50%"]}],
        search={"trials": 1},
        storage=str(where),
    )
    folder = where / "small"
    grid = Grid(plan_of(text), folder).run()
    (folder / "experiment.yaml").write_text(text)
    cell, record = find_winner(grid.study, CELL)
    model = winner_model(grid.plan, cell, record, str(folder), gpus=0)
    measured = decode_predictions((folder / predictions_file(record.id)).read_bytes(), 200, 10)
    return Trained(grid, folder, model, measured)


def predict_missing(folder: PredictionFolder, trained: Trained, most: int = 100) -> list[str]:
    """Writes up to ``most`` missing parts, as ``grid.predict`` does by Ray; the files written."""
    missing = dict(list(folder.missing().items())[:most])
    for file, images in missing.items():
        folder.write(file, trained.model.predict(make_views(images, trained.model.views)))
    return list(missing)


def open_folder(where: Path, trained: Trained, images: Images, **changes: Any) -> PredictionFolder:
    options = {"cell": CELL, "accuracy": None, "threshold": 0.12, **changes}
    return PredictionFolder(str(where), model=trained.model, images=images, **options)


def predicted(where: Path, trained: Trained, images: Images) -> dict[str, Any]:
    folder = open_folder(where, trained, images)
    # half of what the model says reaches it
    median = float(np.median(trained.measured.probabilities.max(axis=1)))
    folder.start(replace(THRESHOLD, threshold=median))
    predict_missing(folder, trained)
    return folder.finish()


@dataclass(frozen=True)
class Spoiled:
    """Images of which some cannot be read."""

    images: ImageRange
    broken: frozenset[str]

    @property
    def count(self) -> int:
        return self.images.count

    def cut(self, start: int, stop: int) -> "Spoiled":
        return Spoiled(self.images.cut(start, stop), self.broken)

    def decoded(self) -> Iterator[Decoded]:
        for image_id, image, error in self.images.decoded():
            bad = image_id in self.broken
            yield image_id, None if bad else image, "spoiled" if bad else error


@pytest.mark.parametrize("broken", [0, 1, 70])
def test_probabilities_are_the_evaluations_to_the_bit_whatever_lies_beside_them(
    broken: int, trained: Trained, digits: Dataset, tmp_path: Path
) -> None:
    ((file, rows),) = dataset_images(digits, ["test"]).parts.items()
    spoiled = frozenset(trained.measured.ids[:broken])
    images = Images({file: Spoiled(rows, spoiled)}, {})
    summary = predicted(tmp_path / "out", trained, images)
    table = pd.read_parquet(tmp_path / "out/parts").set_index("image_id")
    assert sorted(table.index) == trained.measured.ids
    classes = trained.model.classes
    for image_id, expected in zip(
        trained.measured.ids, trained.measured.probabilities, strict=True
    ):
        row = table.loc[image_id]
        if image_id in spoiled:
            assert row["error"] == "spoiled"
            assert row.drop("error").isna().all()
            continue
        assert np.array_equal(row["probabilities"], expected) and pd.isna(row["error"])
        assert row["class"] == classes[expected.argmax()]
        assert row["probability"] == expected.max()
        assert row["abstain"] == (expected.max() < summary["threshold"])
    assert summary["counts"] == {
        "images": 200,
        "predicted": 200 - broken,
        "abstained": int(table["abstain"].eq(True).sum()),  # of a broken one it is null
        "errors": broken,
    }
    assert 0 < summary["counts"]["abstained"] < 200 - broken
    known = json.loads(
        pq.read_schema(tmp_path / "out/parts/test-000000.parquet").metadata[b"semigrid"]
    )
    assert known["classes"] == summary["classes"] == list(classes)


def test_a_split_cut_anywhere_has_the_same_images(digits: Dataset) -> None:
    (rows,) = dataset_images(digits, ["pool"]).parts.values()
    whole = [name for name, _, _ in rows.decoded()]
    assert whole == digits.column("pool", "image_id").to_pylist()
    for start, stop in ((0, 64), (64, 128), (100, 401), (640, 9999)):
        cut = rows.cut(start, stop)
        names = [name for name, _, _ in cut.decoded()]
        assert names == whole[start:stop] and cut.count == len(names)
    assert [n for n, _, _ in rows.cut(70, 300).cut(20, 90).decoded()] == whole[90:160]


def test_a_damaged_shard_is_named_with_what_to_do(digits: Dataset, tmp_path: Path) -> None:
    shutil.copytree(digits.storage.uri, tmp_path / "set")
    (rows,) = find_images([str(tmp_path / "set")], ["val"]).parts.values()
    assert isinstance(rows, SplitRange)
    shard = tmp_path / "set" / rows.groups[0].file
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"{shard.name}: not the shard .* copy it here again"):
        next(rows.decoded())


def test_any_file_is_one_row_with_its_class_or_its_error(trained: Trained, tmp_path: Path) -> None:
    for name, content in {**nasty.good(), **nasty.bad()}.items():
        (tmp_path / "photos" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "deep" / name).write_bytes(content)
    (tmp_path / "photos" / "one.pixel.png").write_bytes(nasty.saved(nasty.picture((1, 1)), "png"))
    images = find_images([str(tmp_path / "photos")])
    (tmp_path / "photos" / "one.pixel.png").rename(tmp_path / "photos" / "gone")  # since listed
    summary = predicted(tmp_path / "out", trained, images)
    table = pd.read_parquet(tmp_path / "out/parts").set_index("image_id")
    bad = {f"deep/{name}" for name in nasty.bad()} | {"one.pixel.png"}
    assert set(table.index) == bad | {f"deep/{name}" for name in nasty.good()}
    assert set(table.index[table["error"].notna()]) == bad
    assert table.loc[sorted(bad), "class"].isna().all()
    assert table.drop(index=sorted(bad))["class"].isin(trained.model.classes).all()
    assert summary["counts"]["errors"] == len(bad)
    assert summary["first_error"]["image_id"] in bad
    assert table.loc["one.pixel.png", "error"] == "there is no such file"
    # a photograph stored on its side is seen upright, as a dataset would have it
    upright = nasty.saved(nasty.picture(), "jpeg", quality=95)
    (tmp_path / "upright.jpeg").write_bytes(upright)
    predicted(tmp_path / "other", trained, find_images([str(tmp_path / "upright.jpeg")]))
    other = pd.read_parquet(tmp_path / "other/parts")
    turned = next(f"deep/{n}" for n, c in nasty.good().items() if c == nasty.rotated_jpeg())
    assert table.loc[turned, "probability"] == pytest.approx(other.probability[0], abs=2e-3)


def test_names_tell_images_of_several_sources_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.png", "a/b/x.png", "c/x.png", "top.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, "png")

    def names(*sources: str) -> list[str]:
        found = find_images(sources).parts.values()
        return [name for images in found for name, _, _ in images.decoded()]

    monkeypatch.chdir(tmp_path)
    assert names("a") == names(f"{tmp_path}/a/") == ["b/x.png", "x.png"]
    assert names("./a", "c/", "top.jpg") == ["a/b/x.png", "a/x.png", "c/x.png", "top.jpg"]
    for twice in (["a", "a/b"], ["a", f"{tmp_path}/a"], ["top.jpg", "./top.jpg"]):
        with pytest.raises(InputError, match="given twice"):
            find_images(twice)
    memory = open_storage("memory://predict-photos")
    memory.write("x.png", (tmp_path / "a/x.png").read_bytes())
    assert names("memory://predict-photos") == ["x.png"]
    assert names("memory://predict-photos", "c") == ["memory://predict-photos/x.png", "c/x.png"]


def test_any_bytes_are_a_name_and_what_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = os.fsdecode(b"caf\xe9")
    os.mkdir(folder)
    for name in ("[1] a::b.png", os.fsdecode(b"\xfc.png"), "download", "b.heic", ".hidden.png"):
        Image.new("RGB", (8, 8)).save(f"{folder}/{name}", "png")  # telephones rename them, too
    Path(folder, "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    left_out = LeftOut()
    (images,) = find_images([folder], left_out=left_out).parts.values()
    found = [(name, error) for name, _, error in images.decoded()]
    taken = "[1] a::b.png", "b.heic", "download", r"\xfc.png"
    assert found == [(name, None) for name in taken]
    assert [line.partition(",")[0] for line in left_out.lines()] == [
        "left out: 1 hidden files and folders",
        "left out: 1 images of a format that is not decoded (.heic)",
    ]
    (images,) = find_images([f"{folder}/download"]).parts.values()
    assert [name for name, _, _ in images.decoded()] == [r"caf\xe9/download"]


def test_a_prediction_goes_on_with_what_is_missing(
    trained: Trained, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "PART_IMAGES", 64)
    images = dataset_images(digits, ["val", "test"])
    files = list(images.parts)
    assert files[:2] == ["val-000000.parquet", "val-000001.parquet"] and len(files) == 7
    folder = open_folder(tmp_path, trained, images, with_probabilities=False)
    assert folder.calibration is None and folder.summary is None
    folder.start(THRESHOLD)
    assert predict_missing(folder, trained, most=2) == files[:2]

    # another process finds two parts and the threshold
    folder = open_folder(tmp_path, trained, images, with_probabilities=False)
    assert folder.calibration == THRESHOLD and folder.summary is None
    assert predict_missing(folder, trained) == files[2:]
    summary = folder.finish()
    assert summary["counts"]["images"] == sum(digits.rows_in(s) for s in ("val", "test"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "predictions.json"]
    assert json.loads((tmp_path / "predictions.json").read_text()) == summary
    assert "probabilities" not in pd.read_parquet(tmp_path / "parts").columns
    again = open_folder(tmp_path, trained, images, with_probabilities=False)
    assert again.summary == summary

    # and what was lost or damaged since is made again
    contents = {file: (tmp_path / "parts" / file).read_bytes() for file in files}
    (tmp_path / "parts" / files[3]).unlink()
    (tmp_path / "parts" / files[4]).write_bytes(contents[files[4]][:-9])
    again = open_folder(tmp_path, trained, images, with_probabilities=False)
    assert again.summary is None and predict_missing(again, trained) == files[3:5]
    assert again.finish() == summary
    assert {file: (tmp_path / "parts" / file).read_bytes() for file in files} == contents


@pytest.mark.parametrize("asked", [{"threshold": 0.1}, {"threshold": None, "accuracy": 0.02}])
def test_a_nested_cell_is_calibrated_on_the_val_images_that_it_counts(
    trained: Trained, digits: Dataset, tmp_path: Path, asked: dict[str, Any]
) -> None:
    (val,) = dataset_images(digits, ["val"]).parts.values()
    views = make_views(val, trained.model.views)
    block, labels = trained.model.predict(views), digits.column("val", "label").to_numpy()
    # one image cannot be read, the very first, which any val would have
    block = replace(block, errors=["broken", *block.errors[1:]])
    images = dataset_images(digits, ["test"])
    for validation, share, usable in (("1", 1.0, 150), ("1/4", 0.25, 38)):
        spec = trained.model.spec.model_copy(update={"validation": validation})
        nested = replace(trained, model=replace(trained.model, spec=spec))
        folder = open_folder(tmp_path / f"{share}", nested, images, **asked)
        folder.calibrate(digits, block)
        # by hand: the first images of each class, rounded half up, less the broken one
        classes = [np.flatnonzero(labels == label) for label in range(10)]
        own = np.concatenate([of[: int(share * len(of) + 0.5)] for of in classes])
        own = own[own != 0]
        found = folder.calibration
        assert found is not None and found.images == len(own) == usable
        sure = block.rows[own].max(axis=1) >= (found.threshold or 0)
        right = block.rows[own].argmax(axis=1) == labels[own]
        assert (found.answered, found.right) == (sure.sum(), (sure & right).sum())


def test_a_folder_of_something_else_is_refused(
    trained: Trained, digits: Dataset, tmp_path: Path
) -> None:
    images = dataset_images(digits, ["val"])
    predicted(tmp_path / "out", trained, images)
    assert open_folder(tmp_path / "out", trained, images).summary is not None
    for changes, words in (
        ({"with_probabilities": False}, "probabilities True where this one has False"),
        ({"threshold": 0.5}, "threshold 0.12 where this one has 0.5"),
        ({"cell": "digits/vit/50%"}, f"cell {CELL} where"),
    ):
        with pytest.raises(InputError, match=words):
            open_folder(tmp_path / "out", trained, images, **changes)
    with pytest.raises(InputError, match="of other images"):
        open_folder(tmp_path / "out", trained, dataset_images(digits, ["test"]))
    with pytest.raises(InputError, match="files of something else"):
        open_folder(tmp_path, trained, images)
    (tmp_path / "died/logs").mkdir(parents=True)  # before it was calibrated
    assert open_folder(tmp_path / "died", trained, images).missing()
    (tmp_path / "out/predictions.json").write_text("{}")
    with pytest.raises(InputError, match="not what a prediction writes"):
        open_folder(tmp_path / "out", trained, images)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="this is a file"):
        open_folder(tmp_path / "file", trained, images)


def test_two_predictions_never_share_a_folder(
    trained: Trained, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # where the kernel locks: the second one is refused at once, and takes nothing with it
    out = tmp_path / "out"
    refused = pytest.raises(InputError, match=f"--output {out}: another process is writing here")
    with in_use(open_storage(out), "--output"), refused:
        predict(str(trained.folder), output=str(out), **DEFAULTS)
    assert list(out.iterdir()) == []

    # in a bucket: no part is taken for one of the other prediction's
    monkeypatch.setattr(images_module, "PART_IMAGES", 64)
    images = dataset_images(digits, ["val", "test"])
    where = "memory://predictions-of-two"
    first, second = (open_folder(where, trained, images, threshold=t) for t in (0.11, 0.13))
    first.start(replace(THRESHOLD, threshold=0.11))
    second.start(replace(THRESHOLD, threshold=0.13))
    assert len(predict_missing(second, trained, most=1)) == 1
    assert len(predict_missing(first, trained)) == 7
    assert len(predict_missing(second, trained)) == 6  # over those of the first
    with pytest.raises(InputError, match="another prediction wrote this meanwhile"):
        first.finish()
    with pytest.raises(InputError, match="val-000000.parquet: another prediction wrote this"):
        second.finish()
    again = open_folder(where, trained, images, threshold=0.13)
    assert predict_missing(again, trained) == ["val-000000.parquet"]
    assert again.finish()["threshold"] == 0.13


DEFAULTS: dict[str, Any] = {"cell": CELL, "images": ["builtin://digits"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cell": "digits/vit/75%"}, "experiment.yaml; there are digits/vit/100%"),
        ({"images": ["/nowhere"]}, "/nowhere: there is no such folder, file or dataset"),
        ({"images": ["builtin://cats"]}, "no such built-in dataset"),
        ({"images": ["builtin://digits", "/tmp"]}, "builtin://digits is a dataset: give it alone"),
        ({"split": ["dev"]}, "--split dev: no such split; there are train, val, test, pool"),
        ({"images": ["grid"], "split": ["val"]}, "--split val: only a dataset has splits"),
        ({"images": ["grid"]}, "grid: no image here"),
        ({"accuracy": "100%"}, "--accuracy 100%: give a share between"),
        ({"accuracy": "much"}, "--accuracy much: give a share between"),
        ({"accuracy": "95%", "threshold": 0.5}, "give one of them"),
        ({"output": "/proc/nowhere"}, "--output /proc/nowhere: cannot be written"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(
    changes: dict[str, Any], words: str, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])  # where there is a folder without images
    with pytest.raises(InputError) as refused:
        predict(str(trained.folder), **DEFAULTS | changes)
    assert words in str(refused.value)


def test_weights_that_are_not_what_was_written_are_no_model(trained: Trained) -> None:
    path = trained.folder / weights_file(trained.model.spec.id)
    whole = path.read_bytes()
    cell, record = find_winner(trained.grid.study, CELL)
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match=r"damaged.*delete it.*semigrid run file.yaml --only"):
            winner_model(trained.grid.plan, cell, record, str(trained.folder), gpus=0)
        path.unlink()
        with pytest.raises(InputError, match=r"missing.*semigrid run file.yaml --only"):
            winner_model(trained.grid.plan, cell, record, str(trained.folder), gpus=0)
    finally:
        path.write_bytes(whole)


def test_the_command_refuses_without_starting_anything(trained: Trained, tmp_path: Path) -> None:
    done = semigrid("predict", str(trained.folder), "digits/vit/1%", "x.png", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "is no cell of" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_photographs_that_were_replaced_are_other_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    before = find_images([str(tmp_path)]).identity
    assert find_images([str(tmp_path)]).identity == before
    Image.new("RGB", (4, 4), "red").save(tmp_path / "b.png")
    assert find_images([str(tmp_path)]).identity != before


def test_a_photograph_that_a_build_may_take_is_predicted(tmp_path: Path) -> None:
    Image.new("1", (9_000, 6_000)).save(tmp_path / "large.png")
    ((name, image, why),) = FileRange([("large", f"{tmp_path}/large.png")]).decoded()
    assert (name, image and image.size, why) == ("large", (9_000, 6_000), None)
