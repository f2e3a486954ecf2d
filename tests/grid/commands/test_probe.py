"""The command from images to curve, and what bad input gets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save_file
from tests.helpers.command import semigrid
from tests.helpers.shop import SETTINGS, shop
from torch import nn

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.schema import MANIFEST
from semigrid.data.sources.files import folder_items
from semigrid.data.storage import Storage
from semigrid.trainers.features import backbone
from semigrid.trainers.probe import curve

BACKBONE = "test_efficientnet"  # timm's smallest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset ``shop`` of two classes, and random weights."""
    folder = tmp_path_factory.mktemp("probe")
    items = list(folder_items(str(shop(folder / "images"))))
    build_dataset(str(folder / "shop"), items, SETTINGS)
    save_file(timm.create_model(BACKBONE).state_dict(), folder / "weights.safetensors")
    return folder


def read_only_below(folder: Path) -> Callable[[Storage, str, bytes], None]:
    """``Storage.write`` for whoever may not write there: tests may run as root, who always may."""
    write = Storage.write

    def checked(storage: Storage, name: str, content: bytes) -> None:
        if storage.location(name).startswith(f"{folder}/"):
            raise PermissionError(f"{folder} is not writable")
        write(storage, name, content)

    return checked


def test_from_images_to_a_curve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        curve.learning_curve, "__defaults__", (4, 3, 1, 1e9, lambda done, total: None)
    )
    command = ["probe", str(folder / "shop"), "--backbone", BACKBONE, "--img-size", "32"]
    command += ["--pretrained", str(folder / "weights.safetensors")]
    command += ["--features", str(tmp_path / "features")]
    made: list[str] = []
    create = backbone.create_model

    def counted(name: str, *how: Any) -> nn.Module:
        made.append(name)
        return create(name, *how)

    monkeypatch.setattr(backbone, "create_model", counted)
    done = semigrid(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert made == [BACKBONE]  # the network is loaded once
    manifest = json.loads((folder / "shop" / MANIFEST).read_text())
    counts = {split: sum(images.values()) for split, images in manifest["counts"].items()}
    used = counts["train"] + counts["test"]
    assert f"features: {used} images, {used} of them made now" in done.stdout
    assert f"on {counts['test']} test images, mean of 3 draws" in done.stdout
    assert max(map(len, done.stdout.splitlines()[2:])) <= 80
    assert (tmp_path / f"probe-shop-{BACKBONE}.png").read_bytes().startswith(b"\x89PNG")

    # again: nothing is extracted, and programs get the same numbers
    again = semigrid(*command, "--picture", str(tmp_path / "c.svg"), "--json", cwd=tmp_path)
    found = json.loads(again.stdout)
    assert found["features"] == {"images": used, "made_now": 0}
    assert found["test_images"] == counts["test"] and found["draws"] == 3
    labels = [point["labels"] for point in found["curve"]]
    assert (labels[0], labels[-1], len(labels)) == (4, counts["train"], 4)
    last = found["curve"][-1]["logistic"]["balanced"]
    assert last["low"] <= last["acc1"] <= last["high"]
    assert f"{last['acc1']:.1f} (" in done.stdout
    assert "<svg" in (tmp_path / "c.svg").read_text()

    # a complete store that may only be read, and a picture that a folder is in the way of
    (tmp_path / "c.svg").unlink()
    (tmp_path / "c.svg").mkdir()
    monkeypatch.setattr(Storage, "write", read_only_below(tmp_path / "features"))
    done = semigrid(*command, "--picture", str(tmp_path / "c.svg"), cwd=tmp_path)
    assert (
        done.returncode == 1 and "c.svg" in done.stderr and f"{last['acc1']:.1f} (" in done.stdout
    )
    for file in (tmp_path / "features").glob("*/test*.parquet"):
        file.unlink()
    done = semigrid(*command, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert f"--features {tmp_path}/features/" in done.stderr and "cannot be wri" in done.stderr


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--backbone": "resnet19.tv_in1k"}, "no backbone of this name; the nearest are resnet1"),
        ({"--backbone": "resnet18"}, "pretrained weights need a tag (resnet18."),
        ({"--picture": "curve.gif"}, "--picture curve.gif: pictures are .png or .svg files"),
        ({"--picture": f"{__file__}/c.svg"}, f"c.svg: cannot be written: {__file__} is not a fold"),
        ({"--pretrained": "gone.safetensors"}, "'gone.safetensors': there is no such file"),
        ({"--pretrained": "weights.zip"}, "weights are a file ending in .safetensors"),
        ({"dataset": "nowhere"}, "nowhere: no dataset here"),
    ],
)
def test_bad_input_gets_one_message(folder: Path, changes: dict[str, str], problem: str) -> None:
    given = {"--backbone": "resnet18.tv_in1k", **changes}
    dataset = given.pop("dataset", str(folder / "shop"))
    options = [text for pair in given.items() for text in pair]
    done = semigrid("probe", dataset, *options)
    assert done.returncode == 2 and not done.stdout
    assert problem in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_class_without_a_label_and_foreign_weights_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    manifest = json.loads((folder / "shop" / MANIFEST).read_text())
    moved = manifest["counts"]["train"].pop("dots")
    manifest["counts"]["train"] |= {"dots": 0}
    manifest["counts"]["train"]["plain"] += moved
    (tmp_path / "bare").mkdir()
    for shard in (folder / "shop").glob("*.parquet"):
        (tmp_path / "bare" / shard.name).symlink_to(shard)
    (tmp_path / "bare" / MANIFEST).write_text(json.dumps(manifest))
    how = ["--pretrained", str(folder / "weights.safetensors")]
    done = semigrid("probe", str(tmp_path / "bare"), "--backbone", BACKBONE, *how)
    assert done.returncode == 2
    assert "1 of 2 classes have no labelled image in train, the first is 'dots'" in done.stderr
    done = semigrid("probe", str(folder / "shop"), "--backbone", "test_vit", *how)
    assert done.returncode == 2 and "these are not weights of test_vit" in done.stderr


def test_weights_that_make_no_numbers_and_a_hub_out_of_reach_are_one_message(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = timm.create_model(BACKBONE).state_dict()
    state["conv_stem.weight"] *= float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    how = ["--pretrained", str(tmp_path / "nan.safetensors")]
    done = semigrid("probe", str(folder / "shop"), "--backbone", BACKBONE, *how, cwd=tmp_path)
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert f"a black image: {BACKBONE} makes features of it that half prec" in done.stderr
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    tagged = "test_resnet.r160_in1k"
    done = semigrid("probe", str(folder / "shop"), "--backbone", tagged, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert f"the pretrained weights of {tagged} cannot be downloaded" in done.stderr
    assert "--pretrained model.safetensors" in done.stderr and "pretrained:" not in done.stderr
