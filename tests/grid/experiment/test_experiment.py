"""Bad experiment files: one message that names every problem; good ones: what they mean."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.experiments import SMALL, SMALL_VIT, changed, experiment_text

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import Split
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.experiment.schema import show_percent
from semigrid.trainers.options import TrainOptions

LABELED: tuple[Split, ...] = ("train", "val", "test")


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        load_experiment("file.yaml", text=text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sede", 3, ["sede", "unknown key", "there are seeds"]),
        ("models.vit.bakbone", "x", ["models.vit.bakbone", "unknown key", "backbone"]),
        ("models.vit.recipe.base_lrr", 1, ["models.vit.recipe.base_lrr", "base_lr"]),
        ("models.vit.recipe.base_lr", -1, ["models.vit.recipe.base_lr", "-1", "greater than 0"]),
        (
            "models.vit.recipe.adapter",
            {"kind": "lora", "rank": 0},
            ["models.vit.recipe.adapter.rank: 0: Input should be greater than 0"],
        ),
        (
            "models.vit.recipe.adapter",
            {"kind": "lore"},
            ["models.vit.recipe.adapter.kind: 'lore': Input should be 'lora'"],
        ),
        (
            "models.vit.recipe.adapter",
            {"kind": "lora", "layers": ["qkv"]},
            ["models.vit.recipe.adapter.layers: unknown key; there are kind, rank, alpha, dropout"],
        ),
        ("models.vit.backbone", "vit_bse_patch16_224", ["vit_base_patch16_224", "nearest"]),
        ("models.vit.pretrained", True, ["models.vit.backbone", "need a tag", "augreg"]),
        ("models.semi-vit.from", "vti", ["models.semi-vit.from", "'vti'", "vit"]),
        ("models.semi-vit.from", "semi-vit", ["models.semi-vit.from", "method semi"]),
        ("grid.0.model", "vti", ["grid.0.model", "'vti'", "there are vit, semi-vit"]),
        ("grid.0.labels", ["0%"], ["grid.0.labels.0", "0%", "above 0%"]),
        ("grid.0.labels", ["130%"], ["grid.0.labels", "130%", "at most 100%"]),
        (
            "grid.0.labels",
            ["2%", "1%"],
            ["grid.0.labels: 1% and 2% of digits are the same 10 images"],
        ),
        ("grid.0.labels", [25], ["grid.0.labels.0", "25", "percentage such as 25%"]),
        ("grid.0.labels", ["50%", "50%"], ["grid.0", "digits/vit/50%", "twice"]),
        ("grid.0.unlabeled", ["100%"], ["grid.0.unlabeled", "finetune"]),
        ("grid.1.unlabeled", ["0%"], ["grid.1.unlabeled.0", "0%", "above 0%"]),
        ("grid.1.unlabeled", ["500%"], ["grid.1.unlabeled", "1,500", "1,200"]),
        ("grid.0.datasets", ["dgits"], ["grid.0.datasets", "'dgits'", "digits"]),
        ("datasets.digits", "/nowhere/at/all", ["datasets.digits", "no dataset here"]),
        ("datasets.digits", "builtin://digts", ["builtin://digts", "builtin://digits"]),
        ("datasets.digits", "foo://digits", ["datasets.digits", "foo://digits"]),
        ("train.workers", 3, ["train.workers", "3", "divide"]),
        ("train.workers", 0, ["train.workers", "0", "greater than 0"]),
        ("search.space", {"semi": {"base_lr": [2, 1]}}, ["search.space.semi.base_lr", "lower end"]),
        ("search.space", {"semi": {"optimizer": [0, 1]}}, ["semi.optimizer", "base_lr"]),
        ("name", "../up", ["name", "'../up'", "letters"]),
        ("name", "x" * 101, ["name", "at most 100"]),
    ],
)
def test_a_problem_names_its_key_its_value_and_what_would_be_right(
    path: str, value: Any, expected: list[str]
) -> None:
    found = problems(changed(path, value))
    for part in ["file.yaml", *expected]:
        assert any(part in problem for problem in found), found


def test_a_model_starts_from_one_with_a_backbone() -> None:
    longer = {"longer": {"from": "vit", "method": "finetune"}}
    models = SMALL["models"] | longer | {"last": {"from": "longer", "method": "semi"}}
    found = problems(experiment_text(models=models))
    assert found == (
        "file.yaml: models.last.from: 'longer' starts from 'vit' itself; start from a model with "
        "a backbone, such as that one",
    )


def test_all_problems_come_in_one_message() -> None:
    text = experiment_text(
        grid=[
            {"model": "vit", "labels": ["1%", "2%"], "unlabeled": ["1%"]},
            {"model": "nobody", "labels": ["50%"]},
        ]
    )
    found = problems(text)
    assert len(found) == 3
    assert all(problem.startswith("file.yaml: grid.") for problem in found)


def test_problems_of_models_recipes_spaces_and_sizes_come_together() -> None:
    text = changed("models.vit.recipe.base_lrr", 1)
    text = text.replace("- 50%", "- 1%\n  - 2%").replace(
        "trials: 3", "trials: 3\n  space: {semi: {x: [0, 1]}}"
    )
    text = text.replace("name: small", "name: small\ntrain: {workers: 3}")
    found = " ".join(problems(text))
    for key in ("models.vit.recipe.base_lrr", "grid.0.labels: 1%", "space.semi.x", "train.workers"):
        assert key in found


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("models.semi-vit.pretrained", False, "models.semi-vit.pretrained: comes from 'vit'"),
        ("models.semi-vit.recipe.base_lr", float("inf"), "base_lr: inf"),
        ("models.vit.recipe.warmup_steps", 6, "models.vit.recipe: warmup_steps is 6"),
        ("models.vit.recipe", {"img_size": 16, "epochs": 5}, "warmup_epochs is 5 of 5 epochs"),
        ("storage", "", "storage"),
        ("grid.0.labels", ["9" * 500 + "%"], "grid.0.labels.0"),
    ],
)
def test_values_that_would_only_fail_later(path: str, value: Any, expected: str) -> None:
    assert any(expected in problem for problem in problems(changed(path, value)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid: [", "not valid YAML"),
        ("{[1, 2]: 3}", "not valid YAML"),
        ("name: 2020-13-45", "not valid YAML"),
        ("just words", "is a mapping"),
        ("name: a\nname: b\n", "appears twice"),
        ("", "is a mapping"),
    ],
)
def test_what_is_no_experiment_at_all(text: str, expected: str) -> None:
    assert expected in problems(text)[0]


def test_a_missing_file_and_a_missing_key() -> None:
    with pytest.raises(InputError, match="/nowhere/file.yaml: cannot be read"):
        load_experiment("/nowhere/file.yaml")
    assert any("storage" not in p and "grid: this key is missing" in p for p in problems("name: a"))


def test_merge_keys_may_be_overridden() -> None:
    text = experiment_text().replace("search:", "x: &x {trials: 3}\nsearch:\n  <<: *x\n ")
    # x is refused as an unknown key, the overridden merge is not
    assert [p for p in problems(text) if "twice" in p] == []


def test_semi_inherits_the_form_of_its_images_and_nothing_else() -> None:
    text = changed("models.semi-vit.recipe", {"steps": 5})
    experiment = load_experiment("file.yaml", text=text)
    recipe = experiment.recipe_of("semi-vit")
    assert (recipe.img_size, recipe.hflip) == (16, 0)
    assert recipe.base_lr == 1e-3  # the published one of semi, not the parent's


def test_percentages_are_exact() -> None:
    experiment = load_experiment("file.yaml", text=changed("grid.0.labels", ["12.5%", "33%"]))
    assert experiment.file.grid[0].labels == [Fraction(1, 8), Fraction(33, 100)]
    assert [show_percent(f) for f in experiment.file.grid[0].labels] == ["12.5%", "33%"]


@pytest.mark.parametrize("name", ["quickstart", "paper", "patterns"])
def test_the_experiments_that_come_along_are_valid(name: str) -> None:
    file = Path(__file__).parents[3] / f"grid/experiments/{name}.yaml"
    assert load_experiment(str(file), without_data=True).file.grid


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"finetun": {}}, "search.space.finetun: not a method or model; there are finetune,"),
        ({"vit": {"base_lr": {"times": 2, "plus": 1}}}, "base_lr: give either times or plus"),
        (
            {"finetune": {"logit_adjustment": [0, 1]}},
            "search.space.finetune.logit_adjustment: is set, not searched: compare models with",
        ),
        ({"semi-vit": {"logit_adjustment": {"plus": 1}}}, "logit_adjustment: is set, not searched"),
        ({"vit": {"base_lr": {"around": 2}}}, "search.space.vit.base_lr: give either times or"),
        ({"vit": {"base_lr": {"times": 0.5}}}, "greater than 1"),
        ({"vit": {"mixup": {"around": 0, "times": 2}}}, "times of 0 is 0; give plus"),
        ({"semi": {"confidence_threshold": {"plus": 0.7}}}, "around the 0.5 of semi-vit"),
        ({"vit": {"base_lr": [2, 1]}}, "base_lr: [2, 1]: the lower end comes first"),
        (
            {"vit": {"confidence_threshold": [0.3, 0.6]}},
            "nothing: only semi and fixmatch use",
        ),
        ({"semi": {"momentum": [0.5, 0.9]}}, "only sgd uses it, the optimizer is adamw"),
        # five epochs of warm-up, as published
        ({"vit": {"epochs": [5, 20]}}, "search.space, epochs 5 for vit: warmup_epochs is 5 of 5"),
        ({"finetune": {"epochs": {"times": 20}}}, "epochs 5 for vit: warmup_epochs is 5 of 5"),
        ({"vit": {"warmup_epochs": [0, 100]}}, "warmup_epochs 100 for vit: warmup_epochs is 100"),
        (
            {"vit": {"epochs": [6, 20]}, "finetune": {"warmup_epochs": [0, 8]}},
            "search.space, epochs 6 and warmup_epochs 8 for vit: warmup_epochs is 8 of 6 epochs",
        ),
    ],
)
def test_a_range_that_cannot_be_is_named(space: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_experiment("file.yaml", text=changed("search.space", space))
    assert expected in str(caught.value)


def test_a_searched_length_that_is_shorter_than_warmup_steps_is_named() -> None:
    # 126 images in batches of 8 are 16 steps an epoch
    recipe = {key: value for key, value in SMALL_VIT.items() if key != "steps"}
    text = changed("models.vit.recipe", {**recipe, "epochs": 9, "warmup_steps": 40})
    space = {"search": {"trials": 2, "space": {"vit": {"epochs": [2, 9]}}}}
    with pytest.raises(InputError, match="epochs 2 for vit: warmup_steps is 40, .* 32 steps"):
        load_experiment("file.yaml", text=yaml.safe_dump({**yaml.safe_load(text), **space}))
    space["search"]["space"] = {"vit": {"epochs": [3, 9]}}
    load_experiment("file.yaml", text=yaml.safe_dump({**yaml.safe_load(text), **space}))


def test_a_models_own_training_settings_stand_over_the_files() -> None:
    text = changed("models.vit.train", {"workers": 2, "gpus_per_worker": 0.5})
    experiment = load_experiment("file.yaml", text=text)
    assert experiment.train_of("vit").workers == 2
    assert experiment.train_of("vit").checkpoint_seconds == 120
    # one of its cores drives the GPU, and the only one has time left
    assert experiment.train_of("vit").loader_processes == 1
    assert TrainOptions(gpus_per_worker=1, cpus_per_worker=4).loader_processes == 3
    assert TrainOptions(cpus_per_worker=4).loader_processes == 0
    assert TrainOptions(cpus_per_worker=4, loader_workers=2).loader_processes == 2
    assert experiment.train_of("semi-vit").workers == 1
    # the command line speaks for all of them
    assert load_experiment("file.yaml", text=text, workers=4).train_of("vit").workers == 4
    with pytest.raises(InputError, match=r"models.vit.train.workers: 3: the global batch of vit"):
        load_experiment("file.yaml", text=changed("models.vit.train", {"workers": 3}))
    with pytest.raises(InputError, match=r"models.vit.train.precision: is the same for all models"):
        load_experiment("file.yaml", text=changed("models.vit.train", {"precision": "bf16"}))
    own = changed("models.vit.train", {"micro_batch": None}) + "train: {micro_batch: 2}\n"
    assert load_experiment("file.yaml", text=own).train_of("vit").micro_batch is None


@pytest.mark.parametrize("key", ["storage", "datasets.digits", "models.vit.pretrained"])
@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("reference://x::http://127.0.0.1:9/refs.pth", r"reference:// cannot be opened; give a"),
        ("file:///etc/x.pth", "file:// cannot be opened"),
        ("https://127.0.0.1:9/x.pth", "nothing is written there|cannot be read"),
    ],
)
def test_addresses_in_a_file_go_through_the_door(key: str, place: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        load_experiment("file.yaml", text=changed(key, place))
    assert str(found.value).startswith(f"file.yaml: {key}: ") and place in str(found.value)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("storage", "s3://AKIA:hunter2@bucket/results"),
        ("storage", "s3://bucket/results?access_key=AKIA&secret_key=hunter2"),
        ("datasets.digits", "sftp://me:hunter2@host/digits"),
        ("models.vit.pretrained", "https://host/mae.pth?X-Amz-Signature=hunter2"),
    ],
)
def test_credentials_in_a_file_are_refused_and_not_shown(key: str, place: str) -> None:
    with pytest.raises(InputError, match="has credentials in it; take them out") as found:
        load_experiment("file.yaml", text=changed(key, place))
    assert str(found.value).startswith(f"file.yaml: {key}: ") and "hunter2" not in str(found.value)


def test_a_dataset_without_unlabelled_images_is_refused_for_who_needs_some(tmp_path: Path) -> None:
    rows = [StoredImage(f"{split}{n}", b"", n, split, split) for split in LABELED for n in (0, 1)]
    facts = {"name": "shop", "classes": ["a", "b"], "license": "CC0", "source": "tests"}
    write_dataset(str(tmp_path / "shop"), rows, **facts)
    content = yaml.safe_load(experiment_text(datasets={"shop": str(tmp_path / "shop")}))
    content["grid"] = [{"model": name, "labels": ["100%"]} for name in ("vit", "semi-vit")]
    assert problems(yaml.safe_dump(content)) == (
        "file.yaml: grid.1: shop has no unlabelled images, and 'semi-vit' learns from some; build "
        "it with a pool, or list the other datasets in this entry (datasets: [NAME])",
    )
