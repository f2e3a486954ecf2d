"""Losses of the methods that were there before a change must be there after it."""

from pathlib import Path

import pytest
import torch
from tests.helpers.tiny import LABELED_IMAGES, POOL_IMAGES, run_tiny, tiny_model, tiny_recipe

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.trainers.execution.checkpoint import Checkpoints
from semigrid.trainers.methods import published, resolve
from semigrid.trainers.models.create import create_model
from semigrid.trainers.recipe import SteppedRecipe

# loss of each of 20 steps on the first digits, seed 0, fp32, CPU: of a ViT with mixup, CutMix,
# erasing and drop path, and of a ResNet with batch normalisation and the same
LOSSES = {
    "finetune vit": [
        *[3.75808, 2.96355, 2.06388, 2.85692, 3.58632],
        *[3.20958, 2.03346, 2.86989, 2.30316, 2.12559],
        *[2.11703, 2.52693, 2.26110, 2.45167, 3.15038],
        *[2.06812, 2.78180, 2.68075, 1.98104, 2.33400],
    ],
    "finetune resnet": [
        *[2.10492, 2.42135, 2.26573, 2.23747, 2.43257],
        *[2.12854, 2.21777, 2.15816, 2.51457, 2.21922],
        *[2.09512, 2.07577, 2.52772, 2.07439, 2.03034],
        *[1.91310, 2.63330, 1.96822, 2.27232, 2.30417],
    ],
    "semi vit": [
        *[4.13661, 2.95149, 5.26494, 5.27861, 3.69325],
        *[3.41904, 4.80179, 6.94141, 4.30342, 5.49988],
        *[4.33747, 6.68302, 5.36829, 5.81629, 4.77886],
        *[4.96634, 5.68108, 7.30971, 7.14094, 5.52166],
    ],
    "semi resnet": [
        *[2.10492, 2.42135, 2.26570, 2.23751, 2.43267],
        *[2.13732, 2.15713, 2.14185, 2.43882, 2.22774],
        *[2.12682, 1.99919, 2.42815, 1.97862, 2.00559],
        *[1.93857, 5.01720, 4.50962, 4.80760, 2.30011],
    ],
    "distill vit": [
        *[7.42930, 6.81652, 5.49019, 5.72240, 6.59659],
        *[5.70246, 4.92696, 5.36719, 4.63422, 4.79653],
        *[5.07501, 4.57294, 4.70905, 5.15351, 5.36140],
        *[4.31558, 5.18531, 4.88935, 4.04617, 5.22755],
    ],
}


def resnet_recipe(method: str) -> SteppedRecipe:
    """The published recipe of convolutional networks, with what it leaves out."""
    settings = {
        "img_size": 32,
        "batch_size": 4,
        "evaluations": 20,
        "steps": 20,
        "warmup_steps": 2,
        "base_lr": 0.5,
        "ema_decay": 0.5,
        "erase_prob": 0.25,
        "drop_path": 0.3,
        "rand_augment": "rand-m9-mstd0.5-inc1",
    }
    if method == "semi":
        settings |= {
            "unlabeled_ratio": 2,
            "confidence_threshold": 0.3,
            "collapse_evaluations": 0,
        }
    recipe = published(method, "test_resnet", settings)
    return resolve(recipe, method, LABELED_IMAGES, POOL_IMAGES)


def model_of(network: str, recipe: SteppedRecipe) -> torch.nn.Module:
    if network == "vit":
        return tiny_model(recipe)
    return create_model("test_resnet", 10, recipe, {}, False, 0)


@pytest.mark.parametrize("which", LOSSES)
def test_twenty_steps_have_the_losses_they_always_had(
    digits: Dataset, tmp_path: Path, which: str
) -> None:
    method, network = which.split()
    # a change that is meant to change no numbers must not; if numbers are to change, raise
    # RECIPE_VERSION and put the new ones here
    recipe = resnet_recipe(method)
    if network == "vit":
        recipe = tiny_recipe(method, steps=20, evaluations=20)
    checkpoints = Checkpoints(open_storage(tmp_path))
    history = run_tiny(digits, method, recipe, checkpoints, model=model_of(network, recipe)).history
    assert [record["loss"] for record in history] == pytest.approx(LOSSES[which], abs=1e-4)
    for record in history:  # the total is that of its parts
        if method != "finetune":
            weight = {"semi": 5, "distill": 1}[method]
            parts = record["labeled_loss"] + weight * record["unlabeled_loss"]
            assert record["loss"] == pytest.approx(parts, rel=1e-6)
    if method == "semi":
        rates = {record["mask_rate"] for record in history}
        assert len(rates) > 1  # the threshold takes part in these numbers
