from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.helpers.experiments import SMALL, changed, experiment_text
from tests.helpers.scheduling import study_of

from semigrid.data.errors import InputError
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.run.preflight import check_models
from semigrid.grid.study.plan import Plan


def problems(text: str) -> list[str]:
    plan = Plan(load_experiment("x.yaml", text=text))
    try:
        check_models(study_of(plan), lambda line: None)
    except InputError as error:
        return list(error.problems)
    return []


def test_a_good_experiment_has_no_problem() -> None:
    assert problems(experiment_text()) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("models.vit.backbone_args.colour", 3, "models.vit: timm cannot build"),
        ("models.vit.backbone_args.num_heads", 3, "models.vit: timm cannot build"),
        ("models.vit.recipe.img_size", 18, "models.vit.recipe.img_size: vit_tiny_patch16_224 refu"),
        ("models.vit.recipe.global_pool", "best", "models.vit: timm cannot build"),
        ("models.vit.backbone", "repvit_m0_9", "write drop_path: 0"),
        (
            "models.semi-vit.recipe.global_pool",
            "max",
            "",  # the same weights, another use: allowed
        ),
    ],
)
def test_what_only_a_built_model_shows(path: str, value: Any, expected: str) -> None:
    found = problems(changed(path, value))
    if not expected:
        assert found == []
        return
    assert found and all(line.startswith("x.yaml: models.") for line in found)
    assert any(expected in line for line in found), found


def test_a_child_whose_model_cannot_take_its_parents_weights() -> None:
    # found here, not when the parent has been trained and paid for
    content = yaml.safe_load(changed("models.semi-vit.recipe.global_pool", "token"))
    content["models"]["vit"]["backbone_args"]["class_token"] = True
    [problem] = problems(yaml.safe_dump(content))
    assert "models.semi-vit.recipe: it cannot start from vit" in problem
    assert "fc_norm" in problem and "let global_pool and img_size be the parent's" in problem


@pytest.mark.parametrize("name", ["drop_path_rate", "global_pool", "num_classes", "in_chans"])
def test_arguments_that_have_a_place_of_their_own(name: str) -> None:
    with pytest.raises(InputError, match=f"models.vit.backbone_args.{name}: take it out: "):
        load_experiment("x.yaml", text=changed(f"models.vit.backbone_args.{name}", 1))


def test_all_models_problems_are_said_at_once() -> None:
    text = changed("models.vit.backbone_args.colour", 3)
    content = yaml.safe_load(text)
    content["models"]["other"] = {**SMALL["models"]["vit"], "backbone_args": {"shape": 1}}
    content["grid"].append({"model": "other", "labels": ["100%"]})
    found = problems(yaml.safe_dump(content))
    assert {line.split(": timm")[0] for line in found} >= {
        "x.yaml: models.vit",
        "x.yaml: models.other",
    }


def test_batch_normalisation_and_micro_batches_do_not_go_together() -> None:
    content = yaml.safe_load(changed("train.micro_batch", 4))
    content["models"]["resnet"] = {
        "backbone": "test_resnet",
        "method": "finetune",
        "pretrained": False,
        "recipe": {"img_size": 32, "steps": 2},
    }
    content["grid"].append({"model": "resnet", "labels": ["100%"]})
    [problem] = problems(yaml.safe_dump(content))
    assert "models.resnet: test_resnet has batch normalisation" in problem
    assert "take train.micro_batch out" in problem


def test_models_that_are_done_are_not_built() -> None:
    plan = Plan(load_experiment("x.yaml", text=changed("models.vit.backbone_args.colour", 3)))
    study = study_of(plan)
    finished = {name: replace(s, stage="finished") for name, s in study.searches.items()}
    check_models(replace(study, searches=finished), lambda line: None)
