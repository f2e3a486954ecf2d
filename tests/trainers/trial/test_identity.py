"""A trial from its specification to its files, without Ray."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.helpers.shop import SETTINGS, shop
from tests.helpers.tiny import VIT, VIT_ARGS

from semigrid.data.builder.ingest import build_dataset
from semigrid.data.sources.files import folder_items
from semigrid.data.sources.items import Item
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.execution.runtime import Runtime
from semigrid.trainers.layout import predictions_file
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.job import Place, TrialJob
from semigrid.trainers.trial.run import evaluate_trial, run_trial


def test_predictions_carry_the_slices_of_their_images(tmp_path: Path) -> None:
    found = folder_items(str(shop(tmp_path / "shop")))
    country = {item.image_id: "MX" if n % 3 else "BR" for n, item in enumerate(found)}
    items = [
        Item(i.image_id, i.uri, i.label, None, {"country": country[i.image_id]}) for i in found
    ]
    dataset, _ = build_dataset(str(tmp_path / "set"), items, SETTINGS)
    recipe = published("finetune", VIT, {"img_size": 16, "batch_size": 4, "evaluations": 1})
    spec = TrialSpec(
        dataset=dataset.manifest.fingerprint,
        labels="1",
        pool_images=None,
        backbone=VIT,
        backbone_args=VIT_ARGS,
        weights="random",
        method="finetune",
        recipe=resolve(
            recipe.model_copy(update={"steps": 2, "warmup_steps": 1}), "finetune", 44, 0
        ),
        precision="fp32",
        seed=0,
        parent=None,
    )
    place = Place(str(tmp_path / "set"), str(tmp_path / "results"))
    job = TrialJob(spec=spec, place=place)
    runtime = Runtime(Checkpoints(open_storage(tmp_path / "training")), device="cpu")
    trained = run_trial(job, runtime)
    metrics, _ = evaluate_trial(job, trained.best_weights, runtime)
    table = pq.read_table(place.storage.location(predictions_file(spec.id)))
    assert table.column_names == ["image_id", "label", "probabilities", "country"]
    rows = table.to_pylist()
    assert len(rows) == 6
    right = 0
    for row in rows:
        assert row["country"] == country[row["image_id"]]
        assert row["label"] == int(row["image_id"].startswith("plain"))
        assert sum(row["probabilities"]) == pytest.approx(1)
        right += row["probabilities"].index(max(row["probabilities"])) == row["label"]
    assert metrics["acc1"] == pytest.approx(100 * right / 6)


def test_a_changed_copy_of_a_specification_is_another_trial() -> None:
    recipe = resolve(published("finetune", VIT, {"steps": 2, "warmup_steps": 1}), "finetune", 8, 0)
    spec = TrialSpec(
        dataset="d",
        labels="1",
        pool_images=None,
        backbone=VIT,
        backbone_args={},
        weights="random",
        method="finetune",
        recipe=recipe,
        precision="fp32",
        seed=0,
        parent=None,
    )
    known = spec.id
    assert spec.model_copy().id == known
    assert spec.model_copy(update={"seed": 1}).id != known
