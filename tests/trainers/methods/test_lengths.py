"""The rule for small sets: nothing changes at published sizes, nothing jumps below them."""

import math
from itertools import pairwise

import pytest

from semigrid.trainers.methods import epochs_of, published, resolve
from semigrid.trainers.methods.lengths import ema_decay
from semigrid.trainers.recipe import SteppedRecipe

VIT = "vit_base_patch16_224.mae"
# every size from 20 to 400, then one more in a hundred
SIZES = [*range(20, 400), *(round(400 * 1.01**i) for i in range(700))]


def fitted(method: str, images: int, backbone: str = VIT, **given: object) -> SteppedRecipe:
    """The recipe for an epoch of so many images, labelled ones or the pool's."""
    return resolve(published(method, backbone, given), method, images, images)


@pytest.mark.parametrize("images", [5_438, 10_875, 16_313, 21_750, 22_500, 24_750])
def test_the_papers_labels_train_as_published(images: int) -> None:
    # 25 % of 29K labelled images, of which 75 % are train, to all of 33K
    vit = fitted("finetune", images)
    assert (vit.batch_size, vit.total_steps) == (1024, round(100 * images / 1024))
    assert vit.warmup_steps == round(vit.total_steps * 0.05) and vit.base_lr == 5e-4
    resnet = fitted("finetune", images, "resnet18.tv_in1k")
    assert (resnet.batch_size, resnet.total_steps) == (256, round(90 * images / 256))
    assert resnet.base_lr == 0.01


@pytest.mark.parametrize("images", [227_000, 284_000, 287_000, 1_139_000])
def test_the_papers_pools_train_as_published(images: int) -> None:
    semi = fitted("semi", images)
    assert (semi.batch_size, semi.pool_batch_size) == (128, 640)
    assert semi.total_steps == round(100 * images / 640)
    assert semi.warmup_steps == round(semi.total_steps * 0.05) and semi.base_lr == 1e-3


@pytest.mark.parametrize("method", ["finetune", "semi"])
@pytest.mark.parametrize("backbone", [VIT, "resnet18.tv_in1k"])
def test_more_images_never_train_less_and_nothing_jumps(method: str, backbone: str) -> None:
    recipes = [fitted(method, images, backbone) for images in SIZES]
    for before, after in pairwise(recipes):
        for name in ("batch_size", "learning_rate", "total_steps", "warmup_steps", "ema_decay"):
            assert getattr(before, name) <= getattr(after, name)
        assert after.batch_size <= before.batch_size * 1.01 + 8
        assert after.total_steps <= before.total_steps * 1.015
    assert all(recipe.total_steps >= 500 for recipe in recipes)
    assert all(25 <= (recipe.warmup_steps or 0) < recipe.total_steps for recipe in recipes)
    assert recipes[0].batch_size == 32


def test_by_hand() -> None:
    # 84 images at the published batch are 8 steps; a fifth of 1,000 is 200; of 1,203 is 240
    assert [fitted("finetune", n).batch_size for n in (84, 1_000, 1_203)] == [32, 200, 240]
    assert fitted("finetune", 84).total_steps == 500
    # 92 images of a pool, 5 for each labelled one; a fifth of 1,200 for 5 each is 48
    semi = fitted("semi", 92)
    assert (semi.batch_size, semi.pool_batch_size, semi.total_steps) == (32, 160, 500)
    assert semi.ema_decay == pytest.approx(1 - 1 / 101)
    assert fitted("semi", 1_200).batch_size == 48


def test_the_rate_falls_with_the_root_of_a_fitted_batch() -> None:
    vit = fitted("finetune", 84)  # 2e-3 for 1,024 images, now 32
    assert vit.learning_rate == pytest.approx(2e-3 / math.sqrt(32))
    assert fitted("semi", 92).learning_rate == pytest.approx(5e-4 / 2)  # for 128 images, now 32
    # 0.01 for 256 images; a fifth of 500 is 100, of which 96 divides by 8
    resnet = fitted("finetune", 500, "resnet18.tv_in1k")
    assert resnet.learning_rate == pytest.approx(0.01 * math.sqrt(96 / 256))
    assert resolve(resnet, "finetune", 500, 0) == resnet
    assert fitted("finetune", 84, batch_size=32).base_lr == 5e-4  # as published for the user's own
    assert fitted("finetune", 84, base_lr=1e-3).base_lr == 1e-3


def test_the_pool_sets_the_batch_of_semi() -> None:
    recipe = published("semi", VIT, {})
    few, many = (resolve(recipe, "semi", labeled, 5_000) for labeled in (20, 20_000))
    assert few == many and few.batch_size == 128


def test_what_the_user_sets_wins() -> None:
    assert fitted("finetune", 84, batch_size=1024).batch_size == 1024
    assert fitted("finetune", 84, steps=30).total_steps == 30
    # 20 passes over 320 images in the rule's batches of 64, and in the user's of 16
    assert fitted("finetune", 320, epochs=20).total_steps == 100
    assert fitted("finetune", 320, epochs=20, batch_size=16).total_steps == 400
    # the published epochs, written out, are the user's, too
    assert fitted("finetune", 84, epochs=100, batch_size=1024).total_steps == 8
    assert fitted("finetune", 84, ema_decay=0.3, warmup_steps=7).ema_decay == 0.3
    assert fitted("semi", 92, unlabeled_ratio=2).pool_batch_size == 64


@pytest.mark.parametrize(("backbone", "epochs"), [(VIT, 100), ("resnet18.tv_in1k", 90)])
def test_a_search_of_the_epochs_is_around_the_fitted_steps(backbone: str, epochs: float) -> None:
    recipe = published("finetune", backbone, {})
    whole = resolve(recipe, "finetune", 63, 0)

    def tried(**values: float) -> SteppedRecipe:
        return resolve(recipe, "finetune", 63, 0, tried=values)

    # the published epochs are the recipe itself, wherever a trial has them from
    assert tried(epochs=epochs) == whole == tried() and whole.total_steps == 500
    assert (tried(epochs=epochs / 2).total_steps, tried(epochs=epochs * 2).total_steps) == (
        250,
        1000,
    )
    # 5 epochs of warm-up stay 5 epochs
    assert {tried(epochs=epochs * times).warmup_steps for times in (1, 2, 3)} == {
        whole.warmup_steps
    }
    assert (tried(base_lr=0.1).total_steps, tried(base_lr=0.1).base_lr) == (500, 0.1)


def test_a_search_of_given_epochs_means_passes() -> None:
    recipe = published("finetune", VIT, {"epochs": 20})
    # 320 images in batches of 64: 5 steps an epoch
    steps = [resolve(recipe, "finetune", 320, 0, tried={"epochs": n}).total_steps for n in (20, 50)]
    assert steps == [100, 250]
    given = published("finetune", VIT, {"steps": 30})
    assert resolve(given, "finetune", 320, 0, tried={"epochs": 50}).total_steps == 30


def test_without_fitting_the_published_sizes_stay() -> None:
    recipe = resolve(published("finetune", VIT, {}), "finetune", 84, 0, fit=False)
    assert (recipe.batch_size, recipe.total_steps) == (1024, 8)


def test_epochs_by_hand() -> None:
    assert epochs_of(fitted("finetune", 320), "finetune", 320, 0) == 500 * 64 / 320
    assert epochs_of(fitted("semi", 287_000), "semi", 10, 287_000) == pytest.approx(100, rel=1e-4)


def test_ema_decay_shrinks_with_the_run() -> None:
    assert ema_decay(50_000) == ema_decay(10_000_000) == 0.9999  # as published
    assert ema_decay(2_000) == pytest.approx(1 - 1 / 401)
    assert ema_decay(20) == 0.8
    assert all(0 < ema_decay(n) < ema_decay(n + 1) for n in range(1, 300))
