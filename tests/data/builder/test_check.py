"""Datasets that are not what their manifest says."""

import io
from pathlib import Path

import pytest
from PIL import Image

from semigrid.data.builder.check import check_dataset
from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.schema import Split


def image(image_id: str, split: Split, group: str, content: bytes | None = None) -> StoredImage:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "png")
    label = None if split == "pool" else 0
    return StoredImage(image_id, content or buffer.getvalue(), label, split, group)


SOUND = [image(f"{split}-1", split, split) for split in ("train", "val", "test", "pool")]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (image("train-1", "val", "other"), "the image 'train-1' occurs a second time"),
        (image("other", "test", "train"), "the group 'train' is also in train"),
        (image("other", "train", "other", b"no image"), "image other cannot be decoded"),
    ],
)
def test_each_problem_is_said_with_its_shard(
    wrong: StoredImage, problem: str, tmp_path: Path
) -> None:
    facts = {"name": "one", "classes": ["only"], "license": "CC0", "source": "tests"}
    dataset = write_dataset(str(tmp_path / "sound"), SOUND, **facts)
    assert check_dataset(dataset) == []
    (said,) = check_dataset(write_dataset(str(tmp_path / "wrong"), [*SOUND, wrong], **facts))
    assert said.startswith(f"{wrong.split}-00000.parquet: ") and problem in said
    counts = {**dataset.manifest.counts, "val": {"only": 2}}
    dataset.manifest = dataset.manifest.model_copy(update={"counts": counts})
    assert check_dataset(dataset) == ["val: 1 images of class 0, the manifest says 2"]
