import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from PIL import Image
from tests.helpers.experiments import SMALL, changed, experiment_text
from tests.helpers.nasty import saved
from tests.helpers.packages import install, on_path
from tests.helpers.scheduling import study_of

from semigrid.data.builder.write import StoredImage, write_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset, Split, check_shard
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.run import preflight
from semigrid.grid.run.preflight import check_models
from semigrid.grid.study.plan import Plan


def problems(text: str, say: Callable[[str], None] = lambda line: None) -> list[str]:
    plan = Plan(load_experiment("x.yaml", text=text))
    try:
        check_models(study_of(plan), say)
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
        ("models.vit.recipe.img_size", 20, "(16).; take img_size out of backbone_args"),
        ("models.vit.recipe.img_size", 18, "18 is no multiple of 4, the side of a patch of vit_ti"),
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


def test_an_adapter_of_layers_that_there_are_not() -> None:
    lora = {"kind": "lora"}
    [problem] = problems(changed("models.vit.recipe.adapter", lora | {"targets": ["query"]}))
    assert problem == (
        "x.yaml: models.vit.recipe.adapter: vit_tiny_patch16_224: it has no query layer that LoRA "
        "could adapt; the ends of names of those that it has are proj, qkv, fc1, fc2: name some "
        "in adapter.targets, or write targets: [] to train the head alone"
    )
    assert problems(changed("models.semi-vit.recipe.adapter", lora)) == []
    [problem] = problems(with_net("test_resnet", {"img_size": 32, "adapter": lora}, {}))
    assert "models.net.recipe.adapter: test_resnet: it has no qkv layer" in problem


def test_an_adapter_of_layers_that_the_backbone_bypasses() -> None:
    args = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    recipe = {"img_size": 32, "adapter": {"kind": "lora"}}
    [problem] = problems(with_net("beit_base_patch16_224", recipe, {}, **args))
    assert problem == (
        "x.yaml: models.net.recipe.adapter: beit_base_patch16_224: an adapter of "
        "blocks.0.attn.qkv would learn nothing (2 such layers): the backbone takes the weights "
        "past the layer; name other layers in adapter.targets"
    )


def test_frozen_batch_normalisation_goes_with_micro_batches_and_with_one_image() -> None:
    adapter = {"kind": "lora", "targets": ["conv2"]}
    recipe = {"img_size": 32, "batch_size": 1, "adapter": adapter}
    assert problems(with_net("test_resnet", recipe, {"micro_batch": 1})) == []


def test_models_that_are_done_are_not_built() -> None:
    plan = Plan(load_experiment("x.yaml", text=changed("models.vit.backbone_args.colour", 3)))
    study = study_of(plan)
    finished = {name: replace(s, stage="finished") for name, s in study.searches.items()}
    check_models(replace(study, searches=finished), lambda line: None)


def with_net(backbone: str, recipe: dict[str, Any], train: dict[str, Any], **args: Any) -> str:
    net = {
        "backbone": backbone,
        "method": "finetune",
        "pretrained": False,
        "backbone_args": args,
        "recipe": {"steps": 3, "mixup": 0, "cutmix": 0, **recipe},
        "train": train,
    }
    content = yaml.safe_load(experiment_text())
    content["models"]["net"] = net
    content["grid"] = [{"model": "net", "labels": ["100%"]}]
    return yaml.safe_dump(content)


@pytest.mark.parametrize(
    ("batch_size", "workers", "expected"),
    [
        (1, 1, "a larger recipe.batch_size"),
        (2, 2, "a larger recipe.batch_size or fewer"),
        (2, 1, ""),
    ],
)
def test_batch_normalisation_over_one_image(batch_size: int, workers: int, expected: str) -> None:
    recipe = {"img_size": 32, "batch_size": batch_size}
    found = problems(with_net("mobilenetv3_small_050", recipe, {"workers": workers}))
    if not expected:
        assert found == []
        return
    [problem] = found
    assert problem.startswith(
        "x.yaml: models.net: mobilenetv3_small_050 fails in a step of finetune on one image of 32 "
        "pixels: ValueError: Expected more than 1 value per channel"
    )
    assert f"batch normalisation needs several images: give {expected}" in problem


def test_a_model_that_takes_few_sizes() -> None:
    # made for what the recipe says, it still counts positions for its own size alone
    [problem] = problems(with_net("efficientformer_l1", {"img_size": 128, "batch_size": 4}, {}))
    assert problem.startswith(
        "x.yaml: models.net.recipe.img_size: efficientformer_l1 refuses images of 128 pixels: "
    )
    assert problem.endswith("; choose one that it takes, such as 224")


def test_a_model_whose_teacher_cannot_follow_it() -> None:
    # ConViT makes a buffer anew in each forward
    recipe = {"img_size": 32, "batch_size": 4}
    [problem] = problems(
        with_net("convit_tiny", recipe, {}, img_size=32, depth=2, local_up_to_layer=1)
    )
    assert "models.net: convit_tiny fails in a step of finetune on 2 images" in problem
    assert "RuntimeError: " in problem and "choose another backbone" in problem


ODD = """
from dataclasses import replace
import numpy as np, torch
from semigrid.data.errors import InputError
from semigrid.trainers.methods.finetune import FINETUNE

class Total(torch.nn.Module):
    def state_dict(self):
        return {{"seen": np.float64(3)}}
    def load_state_dict(self, state):
        pass

def refuse(model, recipe):
    raise InputError("it has no layer 7 to freeze; choose a deeper backbone")

def wrong(*args):
    return 1 / 0

MADE = dict(name="odd", teacher=lambda recipe: "ema", {change})
X = replace(FINETUNE, **MADE)
"""
MEND = "; mend method odd of the package acme-odd, or choose another backbone, backbone_args or img"
FAILS = ": vit_tiny_patch16_224 fails in a step of odd on 2 images of 16 pixels: "


@pytest.mark.parametrize(
    ("change", "begin", "end"),
    [
        ("", "", ""),
        ("step_targets=wrong", f"{FAILS}ZeroDivisionError: division by zero{MEND}", ""),
        ("measures=wrong", f"{FAILS}ZeroDivisionError: division by zero{MEND}", ""),
        ("health=wrong", f"{FAILS}ZeroDivisionError: division by zero{MEND}", ""),
        ("pool_unused=wrong", f"{FAILS}ZeroDivisionError: division by zero{MEND}", ""),
        ("prepare=refuse", ": it has no layer 7 to freeze; choose a deeper backbone", "backbone"),
        (
            "state=lambda *args: Total()",
            ": method odd: what the state_dict of its state returns cannot be read back from a",
            "and float(x) of a number x of numpy)",
        ),
        (
            "measures=lambda *args: {'drift': float('nan')}",
            ": method odd: drift, which it records, is nan at step 1, no finite number: leave out",
            "or mend the method",
        ),
    ],
)
def test_what_is_wrong_with_a_packages_method(
    change: str, begin: str, end: str, tmp_path: Path
) -> None:
    (tmp_path / "acme_odd.py").write_text(ODD.format(change=change))
    install(tmp_path, "acme-odd", "1.0", {"odd": "acme_odd:X"})
    content = yaml.safe_load(changed("models.vit.method", "odd"))
    del content["models"]["semi-vit"], content["grid"][1]
    with on_path(tmp_path):
        found = problems(yaml.safe_dump(content))
    if not begin:
        assert found == []
        return
    [problem] = found
    assert problem.startswith(f"x.yaml: models.vit{begin}") and problem.endswith(end)


def test_equal_steps_are_rehearsed_once_and_large_models_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = yaml.safe_load(experiment_text())
    other = copy.deepcopy(content["models"]["vit"])
    other["recipe"].update(base_lr=0.01, steps=9, batch_size=16)
    content["models"]["other"] = other
    content["grid"].append({"model": "other", "labels": ["100%"]})
    said, taken = [], []
    plan = Plan(load_experiment("x.yaml", text=yaml.safe_dump(content)))
    monkeypatch.setattr(preflight, "rehearse", lambda *args: taken.append(args[2]))
    check_models(study_of(plan), said.append)
    assert taken == ["finetune", "semi"] and said == []
    monkeypatch.setattr(preflight, "free_memory", lambda: 10_000.0)
    check_models(study_of(plan), said.append)
    assert taken == ["finetune", "semi"]
    assert said[0] == (
        "models.vit: no step of training was tried: vit_tiny_patch16_224 is too large for this "
        "machine"
    )


def test_the_pixels_of_large_images_need_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    said, taken = [], []
    monkeypatch.setattr(preflight, "rehearse", lambda *args: taken.append(args[2]))
    monkeypatch.setattr(preflight, "free_memory", lambda: 200e6)  # the weights need 40 MB
    for size in (32, 256):
        text = with_net("mobilenetv3_small_050", {"img_size": size}, {})
        check_models(study_of(Plan(load_experiment("x.yaml", text=text))), said.append)
    assert len(taken) == 1
    assert [words.partition(":")[2][:40] for words in said] == [
        " no step of training was tried: mobilene"
    ]


def test_memory_is_known() -> None:
    assert 10**6 < preflight.free_memory() < 10**14


def test_a_rehearsal_leaves_random_numbers_as_they_were() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert problems(experiment_text()) == []
    assert torch.equal(torch.rand(1), expected)


def test_a_shard_of_another_build_is_found_before_anything_starts(tmp_path: Path) -> None:
    mine, other = (tiny_dataset(tmp_path / name, first) for first, name in enumerate("ab"))
    text = changed("datasets.digits", str(mine))
    assert problems(text) == []
    (mine / "val-00000.parquet").write_bytes((other / "val-00000.parquet").read_bytes())
    check_shard.cache_clear()
    [problem] = problems(text)
    assert problem.startswith(f"x.yaml: datasets.digits: {mine / 'val-00000.parquet'}: not the sha")
    assert problem.endswith("copy it here again or build the dataset again")


def test_much_to_read_is_said_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert problems(experiment_text(), said.append) == []
    assert not any("comparing" in line for line in said)
    monkeypatch.setattr(preflight, "MUCH_TO_READ", 1e5)
    monkeypatch.setattr(Dataset, "check", lambda dataset, split: said.append("read"))
    assert problems(experiment_text(), said.append) == []
    assert said[0].startswith(
        "datasets.digits: comparing 0 GB of labelled images with dataset.json"
    )
    assert said[1] == "read"


def tiny_dataset(folder: Path, first: int) -> Path:
    """Two classes and a pool; another ``first`` makes other images of the same names."""
    rows = []
    for number, split in enumerate(["train"] * 8 + ["val", "test"] * 4 + ["pool"] * 300):
        label = None if split == "pool" else number // 2 % 2
        image = saved(Image.new("L", (4, 4), (number + first) % 256), "png")
        rows.append(StoredImage(f"image-{number}", image, label, cast(Split, split), f"{number}"))
    facts = {"name": "tiny", "classes": ["a", "b"], "license": "CC0", "source": "tests"}
    write_dataset(str(folder), rows, **facts)
    return folder
