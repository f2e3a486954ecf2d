"""The images that a trial is evaluated on."""

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.views.augment import ViewSettings
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import SteppedRecipe
from semigrid.trainers.trial import data

COUNTS = {0: 200, 1: 100, 2: 1}  # and no image of class 3


class Rank:
    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size


def read(dataset: Any, fraction: Fraction, ranks: int) -> list[int]:
    """Labels of all images that the ranks read, each as often as it is read."""
    ids, labels = [], []
    for rank in range(ranks):
        views, runtime = ViewSettings(img_size=16), Rank(rank, ranks)
        batches = data.evaluation_batches(dataset, "val", views, runtime, fraction)  # type: ignore[arg-type]
        for rows in batches.batches:
            ids += [batches.table.ids[row] for row in rows]
            labels += [int(batches.table.labels[row]) for row in rows]
    assert len(ids) == len(set(ids))  # each once
    return labels


def test_a_nested_val_is_read_class_by_class_on_any_number_of_ranks(tmp_path: Path) -> None:
    rows = [
        StoredImage(f"{split}-{label}-{n}", b"", label, split, f"{split}{label}-{n}")
        for split, counts in (
            ("train", dict.fromkeys(range(4), 2)),
            ("val", COUNTS),
            ("test", dict.fromkeys(range(4), 2)),
        )
        for label, images in counts.items()
        for n in range(images)
    ]
    dataset = write_dataset(
        str(tmp_path / "set"), rows, name="d", classes=[*"abcd"], license="", source=""
    )
    for ranks in (1, 2, 3):
        assert len(read(dataset, Fraction(1), ranks)) == 301
        quarter = read(dataset, Fraction(1, 4), ranks)
        assert [quarter.count(label) for label in range(4)] == [50, 25, 1, 0]
    # nested: half has all that a quarter has
    kept = [set(data._table(dataset, "val", Fraction(n, 4)).ids) for n in (1, 2, 4)]
    assert kept[0] < kept[1] < kept[2]
    # a training reads the share that its specification names
    spec = SimpleNamespace(
        labels="1/2",
        validation="1/4",
        seed=0,
        pool_images=None,
        method="finetune",
        recipe=SteppedRecipe(batch_size=2),
        dataset=dataset.manifest.fingerprint,
    )
    job: Any = SimpleNamespace(
        spec=spec,
        options=TrainOptions(loader_workers=3),
        place=SimpleNamespace(dataset_uri=str(tmp_path / "set")),
    )
    streams = data.open_streams(job, ViewSettings(img_size=16), Rank(0, 1))  # type: ignore[arg-type]
    assert streams.validation.loader_processes == 3
    assert set(streams.validation.table.ids) == kept[0] and len(kept[0]) == 76
