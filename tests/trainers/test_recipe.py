from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from semigrid.data.errors import InputError
from semigrid.trainers.backbones import backbone_family
from semigrid.trainers.methods import published, registry, resolve
from semigrid.trainers.methods.finetune import FINETUNE, FinetuneRecipe
from semigrid.trainers.recipe import PoolRecipe, SteppedRecipe

# docs/methods.md §3, ViT-B (MAE)
VIT_FINETUNE = {
    "optimizer": "adamw",
    "base_lr": 5e-4,
    "weight_decay": 0.05,
    "beta1": 0.9,
    "beta2": 0.999,
    "layer_decay": 0.65,
    "min_lr": 1e-6,
    "epochs": 100,
    "warmup_epochs": 5,
    "batch_size": 1024,
    "img_size": 224,
    "drop_path": 0.1,
    "global_pool": "avg",
    "head_std": 2e-5,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "hflip": 0.5,
    "color_jitter": 0.4,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "erase_prob": 0.25,
}
# docs/methods.md §3, ResNet18; the mixing and the label smoothing are the method's
RESNET_FINETUNE = {
    "optimizer": "sgd",
    "base_lr": 0.01,
    "weight_decay": 1e-4,
    "momentum": 0.9,
    "layer_decay": 1.0,
    "min_lr": 1e-6,
    "epochs": 90,
    "warmup_epochs": 5,
    "batch_size": 256,
    "drop_path": 0,
    "erase_prob": 0,
    "rand_augment": "",
    "color_jitter": 0.4,
    "head_std": None,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
}
# docs/methods.md §4
VIT_SEMI = VIT_FINETUNE | {
    "base_lr": 1e-3,
    "layer_decay": 0.75,
    "batch_size": 128,
    "epochs": 100,
    "warmup_epochs": 5,
    "drop_path": 0.1,
    "confidence_threshold": 0.5,
    "unlabeled_loss_weight": 5,
    "unlabeled_ratio": 5,
}
RESNET_SEMI = RESNET_FINETUNE | {
    "batch_size": 128,
    "confidence_threshold": 0.5,
    "unlabeled_loss_weight": 5,
    "unlabeled_ratio": 5,
}


@pytest.mark.parametrize(
    ("method", "backbone", "expected"),
    [
        ("finetune", "vit_base_patch16_224.mae", VIT_FINETUNE),
        ("finetune", "resnet18.tv_in1k", RESNET_FINETUNE),
        ("semi", "vit_base_patch16_224.mae", VIT_SEMI),
        ("semi", "resnet18.tv_in1k", RESNET_SEMI),
    ],
)
def test_published_numbers(method: str, backbone: str, expected: dict[str, object]) -> None:
    recipe = published(method, backbone, {}).model_dump()
    assert {name: recipe[name] for name in expected} == expected


def test_the_users_values_stand_over_the_published() -> None:
    recipe = published("semi", "vit_base_patch16_224.mae", {"base_lr": 3e-4, "epochs": 10})
    assert (recipe.base_lr, recipe.epochs, recipe.unlabeled_ratio) == (3e-4, 10, 5)


def test_semi_vits_recipe_for_one_percent_is_a_preset() -> None:
    # arXiv 2208.05688: threshold 0.6; drop path, erasing and the mixing of labelled images are off
    semi = published("semi", "vit_base_patch16_224.mae", {"preset": "semivit-1pct"})
    expected = VIT_SEMI | {"confidence_threshold": 0.6, "drop_path": 0, "erase_prob": 0}
    expected |= {"mixup": 0, "cutmix": 0}
    assert {name: getattr(semi, name) for name in expected} == expected
    given = {"preset": "semivit-1pct", "mixup": 0.2}
    finetune = published("finetune", "vit_base_patch16_224.mae", given)
    assert (finetune.base_lr, finetune.batch_size, finetune.layer_decay) == (5e-5, 512, 0.65)
    assert (finetune.mixup, finetune.cutmix) == (
        0.2,
        0,
    )  # the user's value stands over the preset's
    assert finetune.model_fields_set == {"mixup"}


@pytest.mark.parametrize(
    ("backbone", "name", "there"),
    [
        ("vit_base_patch16_224.mae", "semivit-2pct", "semivit-1pct"),
        ("vit_base_patch16_224.mae", ["semivit-1pct"], "semivit-1pct"),
        ("resnet18", "semivit-1pct", "none: take the key out"),
    ],
)
def test_a_preset_that_is_not_there(backbone: str, name: object, there: str) -> None:
    with pytest.raises(InputError, match=rf"preset: .* is no preset of method semi .*{there}"):
        published("semi", backbone, {"preset": name})


@pytest.mark.parametrize("backbone", ["resnet18", "resnext50_32x4d", "efficientnet_b0"])
def test_convolutional_backbones(backbone: str) -> None:
    assert backbone_family(backbone) == "convnet"


@pytest.mark.parametrize(
    "backbone",
    ["resnetv2_50", "seresnet50", "densenet121", "mobilenetv3_large_100", "tf_efficientnet_b0"]
    + ["vgg16", "ecaresnet50d"],
)
def test_other_convolutional_backbones(backbone: str) -> None:
    # "residual and other convolutional networks": the ViT recipe is not theirs
    assert backbone_family(backbone) == "convnet"


@pytest.mark.parametrize(
    "backbone", ["vit_base_patch16_224", "deit_small_patch16_224", "beit_base"]
)
def test_transformer_backbones(backbone: str) -> None:
    assert backbone_family(backbone) == "transformer"


def test_finetune_epochs_are_passes_over_the_labeled_set() -> None:
    recipe = published("finetune", "vit_base_patch16_224.mae", {})
    resolved = resolve(recipe, "finetune", labeled_images=20480, pool_images=999)
    # 20 steps a pass, 100 passes, the first 5 of them warm-up
    assert (resolved.total_steps, resolved.warmup_steps) == (2000, 100)
    assert resolved.ema_decay == pytest.approx(1 - 1 / 401)


def test_semi_epochs_are_passes_over_the_pool() -> None:
    recipe = published("semi", "vit_base_patch16_224.mae", {"epochs": 10, "warmup_epochs": 1})
    # 128 · 5 unlabelled images a step
    resolved = resolve(recipe, "semi", labeled_images=999, pool_images=64_000)
    assert (resolved.total_steps, resolved.warmup_steps) == (1000, 100)


def test_steps_stand_over_epochs_and_warmup_keeps_its_share() -> None:
    recipe = published("finetune", "vit_base_patch16_224.mae", {"steps": 400})
    resolved = resolve(recipe, "finetune", labeled_images=10, pool_images=0)
    assert (resolved.total_steps, resolved.warmup_steps) == (400, 20)


def test_what_the_user_sets_is_kept() -> None:
    given = {"steps": 400, "warmup_steps": 0, "ema_decay": 0.5}
    resolved = resolve(published("finetune", "resnet18", given), "finetune", 10, 0)
    assert {name: getattr(resolved, name) for name in given} == given


@pytest.mark.parametrize("images", [1, 100])
def test_the_smallest_training_has_one_step_and_no_warmup(images: int) -> None:
    given = {"epochs": 1, "warmup_epochs": 0.5, "batch_size": 1024}
    resolved = resolve(
        published("finetune", "vit_base_patch16_224.mae", given), "finetune", images, 0
    )
    assert (resolved.total_steps, resolved.warmup_steps) == (1, 0)


def test_a_warmup_without_a_training_is_refused() -> None:
    recipe = published("finetune", "vit_base_patch16_224.mae", {"epochs": 5})
    with pytest.raises(ValueError, match="warmup_epochs is 5 of 5 epochs"):
        resolve(recipe, "finetune", 30_000, 0)


def test_resolving_again_changes_nothing() -> None:
    once = resolve(published("semi", "vit_base_patch16_224", {}), "semi", 1000, 100_000)
    assert resolve(once, "semi", 7, 7) == once


def test_unresolved_recipes_have_no_number_of_steps() -> None:
    with pytest.raises(ValueError, match="not resolved"):
        _ = SteppedRecipe().total_steps


def test_derived_numbers() -> None:
    recipe = PoolRecipe(base_lr=1e-3, batch_size=128, unlabeled_ratio=5)
    assert recipe.learning_rate == 5e-4
    assert recipe.pool_batch_size == 640


@pytest.mark.parametrize("name", ["crop_scale", "weak_crop_scale"])
@pytest.mark.parametrize("crop", [(0.5, 0.2), (0.0, 1.0), (0.1, 1.5), (-0.1, 1.0)])
def test_crops_must_be_ranges(name: str, crop: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=rf"{name} must be a range within \(0, 1\]"):
        PoolRecipe(**{name: crop})


@pytest.mark.parametrize("crop", [(0.3, 0.3), (1.0, 1.0), (0.01, 1.0)])
def test_ranges_may_be_narrow(crop: tuple[float, float]) -> None:
    assert SteppedRecipe(crop_scale=crop).crop_scale == crop


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 1},  # no such key: it is base_lr
        {"base_lr": 0},
        {"base_lr": "fast"},
        {"optimizer": "adam"},
        {"batch_size": 0},
        {"label_smoothing": 1},
        {"ema_decay": 1},
        {"erase_prob": 1.5},
        {"confidence_threshold": -0.1},
        {"unlabeled_ratio": 2.5},
        {"evaluations": 0},
    ],
)
def test_wrong_values_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        published("semi", "resnet18", wrong)


def test_settings_of_other_methods_are_refused_with_their_owners() -> None:
    wrong = {"confidence_threshold": 0.7, "base_lr": 0.1, "unlabeled_ratio": 3}
    with pytest.raises(InputError) as refused:
        published("finetune", "resnet18", wrong)
    owners = {
        "confidence_threshold": "semi and fixmatch",
        "unlabeled_ratio": "semi, fixmatch and distill",
    }
    assert refused.value.problems == tuple(
        f"{name}: only {users} use it, and the method is finetune; take this key out"
        for name, users in owners.items()
    )
    with pytest.raises(ValidationError, match="threshold"):  # of nobody
        published("finetune", "resnet18", {"threshold": 0.7})


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SteppedRecipe().base_lr = 1.0


@pytest.mark.parametrize("value", ["rand-m9-mstd0.5-inc1", "rand-m7-n3", "rand-m9-p0.5", ""])
def test_augmentations_that_timm_understands(value: str) -> None:
    assert SteppedRecipe(rand_augment=value).rand_augment == value


@pytest.mark.parametrize(
    "value",
    [
        "rand",
        "rand-m",
        "rand-m9-inc",
        "rand-m9-inc1-typo",
        "rand-x9",
        "rand-m9.5",
        "rand-w0",
        "best",
    ],
)
def test_augmentations_that_timm_would_read_in_part_are_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="is written as in rand-m9-mstd0.5-inc1"):
        SteppedRecipe(rand_augment=value)


LORA = {"kind": "lora"}


def test_an_adapter_learns_ten_times_as_fast_without_layer_decay() -> None:
    vit, resnet = "vit_base_patch16_224.mae", "resnet18.tv_in1k"
    # SGD's steps are as large as its gradients: ten times its rate is too much (docs/methods.md §8)
    for method, backbone, times in (
        ("finetune", vit, 10),
        ("semi", vit, 10),
        ("finetune", resnet, 1),
    ):
        full = published(method, backbone, {})
        adapted = published(method, backbone, {"adapter": LORA})
        assert (adapted.base_lr, adapted.layer_decay) == (times * full.base_lr, 1.0)
        assert (
            adapted.model_copy(
                update={"adapter": None, "base_lr": full.base_lr, "layer_decay": full.layer_decay}
            ).model_dump()
            == full.model_dump()
        )
    rates = [
        published("finetune", vit, {"adapter": LORA, **own}).base_lr
        for own in ({"preset": "semivit-1pct"}, {"base_lr": 0.003})
    ]
    assert rates == [pytest.approx(5e-4), 0.003]  # ten times the preset's; the user's own


@pytest.mark.parametrize(
    ("backbone", "optimizer", "base_lr"),
    [
        ("vit_base_patch16_224.mae", "adamw", 5e-3),
        # a published rate is the published optimizer's: it is no other's, ten times or not
        ("vit_base_patch16_224.mae", "sgd", 5e-4),
        ("resnet18.tv_in1k", "adamw", 0.01),
        ("resnet18.tv_in1k", "sgd", 0.01),
    ],
)
def test_an_adapters_rate_is_of_the_published_optimizer(
    backbone: str, optimizer: str, base_lr: float
) -> None:
    own = {"adapter": LORA, "optimizer": optimizer}
    assert published("finetune", backbone, own).base_lr == pytest.approx(base_lr)


def test_an_adapters_rate_asks_the_methods_own_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnRecipe(FinetuneRecipe):
        optimizer: Literal["adamw", "sgd"] = "sgd"

    own = replace(FINETUNE, name="own", recipe=OwnRecipe)
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, own))
    registry.forget()
    try:
        recipe = published("own", "vit_base_patch16_224.mae", {"adapter": LORA})
    finally:
        registry.forget()
    assert (recipe.optimizer, recipe.base_lr) == ("sgd", 5e-4)


def test_the_default_adapter_is_the_published_one() -> None:
    adapter = published("semi", "vit_base_patch16_224.mae", {"adapter": LORA}).adapter
    assert adapter is not None
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets) == (8, 16, 0, None)


@pytest.mark.parametrize(
    ("adapter", "key", "message"),
    [
        ({"kind": "lora", "rank": 0}, "rank", "greater than 0"),
        ({"kind": "prefix"}, "kind", "'lora'"),
        ({}, "kind", "required"),
        ({"kind": "lora", "layers": 3}, "layers", "not permitted"),
        ({"kind": "lora", "targets": [""]}, 0, "at least 1 character"),
    ],
)
def test_adapters_that_cannot_be(adapter: dict[str, Any], key: Any, message: str) -> None:
    with pytest.raises(ValidationError) as error:
        SteppedRecipe(adapter=adapter)
    [problem] = error.value.errors()
    assert problem["loc"][-1] == key and message in problem["msg"]


def test_a_recipe_without_an_adapter_does_not_mention_it() -> None:
    # identities of trials are hashes of what is dumped
    assert "adapter" not in SteppedRecipe().model_dump(mode="json")
    with_one = SteppedRecipe(adapter=LORA)
    assert SteppedRecipe(**with_one.model_dump(mode="json")) == with_one
