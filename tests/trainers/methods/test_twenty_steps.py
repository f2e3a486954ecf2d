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
        *[3.81801, 3.46998, 1.97788, 3.07075, 2.71519],
        *[2.87076, 2.23369, 2.76727, 2.49126, 2.58893],
        *[2.62523, 2.77086, 2.40685, 2.37121, 2.40772],
        *[1.83884, 2.70737, 2.27211, 2.26802, 2.36578],
    ],
    "finetune resnet": [
        *[2.07336, 2.43714, 2.32047, 2.33237, 2.41309],
        *[1.92491, 2.16674, 2.46744, 2.51603, 2.17660],
        *[2.07857, 2.23548, 2.26403, 1.97993, 1.94058],
        *[1.89054, 2.42221, 1.89969, 2.22460, 2.18263],
    ],
    "semi vit": [
        *[5.53561, 3.46352, 3.07399, 5.06380, 3.08630],
        *[3.16276, 3.50468, 7.52355, 4.41954, 5.46397],
        *[7.57289, 5.46808, 2.53173, 2.73992, 4.15589],
        *[3.22569, 5.94624, 5.56204, 7.91194, 4.23454],
    ],
    "semi resnet": [
        *[2.07336, 2.43714, 2.32046, 2.33214, 2.41298],
        *[1.89875, 2.25170, 2.39485, 2.43802, 2.07083],
        *[2.06264, 2.28176, 2.27339, 4.13362, 1.92757],
        *[4.29168, 5.21099, 9.50952, 6.53588, 7.78543],
    ],
    "distill vit": [
        *[7.16901, 7.08377, 5.58634, 5.53265, 5.83257],
        *[5.30630, 4.81617, 5.36823, 4.91831, 4.68437],
        *[5.30278, 4.56450, 4.93077, 5.34573, 4.94603],
        *[4.42871, 5.19450, 5.18843, 4.63038, 5.21870],
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
