"""A DINOv2, whose weights are for 518 pixels, at 224: trained, measured, used and exported."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from tests.helpers.experiments import plan_of
from tests.helpers.in_process import Grid
from tests.helpers.nasty import saved
from tests.helpers.scheduling import study_of

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.errors import InputError
from semigrid.data.ranges import make_views
from semigrid.data.schema import Split
from semigrid.grid.export.cell import export_cell
from semigrid.grid.export.timm_folder import open_timm_folder
from semigrid.grid.predict.images import dataset_images
from semigrid.grid.predict.inference import winner_model
from semigrid.grid.run.preflight import check_models
from semigrid.grid.study.plan import Plan
from semigrid.grid.study.winner import find_winner
from semigrid.trainers.evaluation.predictions import decode_predictions
from semigrid.trainers.layout import predictions_file

DINO = "vit_small_patch14_dinov2"
SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 2}
FINETUNED, SEMI = "shapes/dino/100%", "shapes/semi-dino/100%/100%"
PROBED = "shapes/probe/100%"


def shapes(folder: Path) -> None:
    """Two classes in noise, and a pool."""
    draw, rows = np.random.default_rng(0), []
    for number, split in enumerate(["train"] * 8 + ["val", "test"] * 4 + ["pool"] * 20):
        label = number // 2 % 2
        pixels = draw.integers(0, 128, (30, 30, 3), np.uint8)
        pixels[:, :, label] += 100
        image = saved(Image.fromarray(pixels), "png")
        known = None if split == "pool" else label
        rows.append(StoredImage(f"image-{number}", image, known, cast(Split, split), f"{number}"))
    facts = {"name": "shapes", "classes": ["red", "green"], "license": "CC0", "source": "tests"}
    write_dataset(str(folder), rows, **facts)


def plan_with(folder: Path, **recipe: Any) -> Plan:
    short = {"steps": 2, "warmup_steps": 0, "batch_size": 4, "evaluations": 1, **recipe}
    dino = {
        "backbone": DINO,
        "backbone_args": SMALL,
        "method": "finetune",
        "pretrained": str(folder / "dino.safetensors"),
        "weights_license": "CC0",
        "recipe": short,
    }
    semi = {
        "from": "dino",
        "method": "semi",
        "recipe": {**short, "unlabeled_ratio": 1, "confidence_threshold": 0.1},
    }
    probe = {key: value for key, value in dino.items() if key != "recipe"} | {"method": "probe"}
    content = {
        "name": "run",
        "datasets": {"shapes": str(folder / "shapes")},
        "models": {"dino": dino, "semi-dino": semi, "probe": probe},
        "grid": [{"model": name, "labels": ["100%"]} for name in ("dino", "semi-dino", "probe")],
        "search": {"trials": 1},
        "storage": str(folder),
    }
    return plan_of(yaml.safe_dump(content))


@dataclass(frozen=True)
class Run:
    folder: Path
    grid: Grid


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("dino")
    shapes(folder / "shapes")
    torch.manual_seed(0)
    own = timm.create_model(DINO, **SMALL)
    assert own.pos_embed.shape[1] == 1 + 37**2  # 518 pixels, as the published weights
    save_file(own.state_dict(), folder / "dino.safetensors")
    grid = Grid(plan_with(folder), folder / "run").run()
    assert not grid.problems
    return Run(folder, grid)


@pytest.mark.parametrize("cell", [FINETUNED, SEMI, PROBED])
def test_it_is_measured_and_predicts_at_224_pixels(run: Run, cell: str) -> None:
    found, record = find_winner(run.grid.study, cell)
    model = winner_model(run.grid.plan, found, record, str(run.folder / "run"), gpus=0)
    dataset = run.grid.plan.experiment.datasets["shapes"]
    [images] = dataset_images(dataset, ["test"]).parts.values()
    views = make_views(images, model.views)
    assert views.rows.shape == (4, 3, 224, 224)
    content = (run.folder / "run" / predictions_file(record.id)).read_bytes()
    measured = decode_predictions(content, 4, 2)
    assert np.allclose(model.predict(views).rows, measured.probabilities, atol=1e-6)


def test_timm_alone_opens_it_at_224_pixels(run: Run, tmp_path: Path) -> None:
    ledger = run.grid.ledger
    study = study_of(run.grid.plan, ledger.read_all(), ledger.has_weights)
    done = export_cell(study, ledger.storage, SEMI, str(tmp_path / "export"))
    assert done.check.real_images and done.check.onnx is not None
    assert done.check.measured is not None and done.check.measured < 1e-5
    model, view = open_timm_folder(tmp_path / "export")
    assert model.pos_embed.shape == (1, 1 + 16**2, 48)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 224, 224)
    assert view(Image.new("RGB", (300, 400))).shape == (3, 224, 224)


def test_a_size_that_cuts_patches_is_refused_before_anything_starts(run: Run) -> None:
    plan = plan_with(run.folder, img_size=230)
    with pytest.raises(InputError) as caught:
        check_models(study_of(plan), lambda line: None)
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        f"models.{name}.recipe.img_size: 230 is no multiple of 14, the side of a patch of {DINO}: "
        "it would not see the last 6 rows and columns of an image; choose 224 or 238"
        for name in ("dino", "semi-dino")
    ]
