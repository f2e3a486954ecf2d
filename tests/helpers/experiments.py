"""Experiment files for the grid's tests: small enough to train in seconds."""

import copy
from typing import Any

import yaml

from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.plan import Plan

SMALL_VIT = {
    "img_size": 16,
    "steps": 6,
    "batch_size": 8,
    "base_lr": 0.03,
    "drop_path": 0,
    "hflip": 0,
    "evaluations": 2,
}

SMALL: dict[str, Any] = {
    "name": "small",
    "datasets": {"digits": "builtin://digits"},
    "models": {
        "vit": {
            "backbone": "vit_tiny_patch16_224",
            "method": "finetune",
            "pretrained": False,
            "backbone_args": {
                "img_size": 16,
                "patch_size": 4,
                "embed_dim": 16,
                "depth": 1,
                "num_heads": 2,
                "class_token": False,
            },
            "recipe": SMALL_VIT,
        },
        "semi-vit": {
            "from": "vit",
            "method": "semi",
            # six steps from next to nothing: few images pass the threshold
            "recipe": {
                **SMALL_VIT,
                "batch_size": 4,
                "unlabeled_ratio": 2,
                "collapse_evaluations": 0,
            },
        },
    },
    "grid": [
        {"model": "vit", "labels": ["50%", "100%"]},
        {"model": "semi-vit", "labels": ["50%", "100%"]},
    ],
    "search": {"trials": 3, "wave": 2},
}


def experiment_text(**changes: Any) -> str:
    """The small experiment as YAML, with top-level keys replaced."""
    return yaml.safe_dump({**copy.deepcopy(SMALL), **changes}, sort_keys=False)


def changed(path: str, value: Any) -> str:
    """The small experiment as YAML, with one nested key set (``models.vit.backbone``)."""
    content = copy.deepcopy(SMALL)
    *parents, last = path.split(".")
    section: Any = content
    for name in parents:
        section = section[int(name)] if isinstance(section, list) else section.setdefault(name, {})
    section[last] = value
    return yaml.safe_dump(content, sort_keys=False)


def plan_of(text: str) -> Plan:
    return Plan(load_experiment("file.yaml", text=text))


def pair_text(**recipe: Any) -> str:
    """An experiment of one cell whose trainings take two workers, with changes to its recipe."""
    content = copy.deepcopy(SMALL)
    content["models"]["vit"]["recipe"] |= {"steps": 300, "evaluations": 4, **recipe}
    content["models"]["vit"]["train"] = {"workers": 2}
    content["grid"] = [{"model": "vit", "labels": ["100%"]}]
    content["train"] = {"checkpoint_seconds": 0}
    content["search"] = {"trials": 1}
    return yaml.safe_dump(content)


# cells of ``distill_text``
STUDENT = "digits/small/50%/100%"
VIT, SEMI = "digits/vit/50%", "digits/semi-vit/50%/100%"


def distill_text(source: Any = ("vit", "semi-vit"), **changes: Any) -> str:
    """The small experiment with a student of these models, at one label fraction."""
    content = copy.deepcopy(SMALL)
    net = content["models"]["vit"]
    recipe = {**SMALL_VIT, "batch_size": 4, "unlabeled_ratio": 3}
    names = source if isinstance(source, str) else list(source)
    content["models"]["small"] = net | {"method": "distill", "from": names, "recipe": recipe}
    content["grid"] = [{"model": name, "labels": ["50%"]} for name in ("vit", "semi-vit", "small")]
    content["search"] = {"trials": 1}
    return yaml.safe_dump({**content, **changes})
