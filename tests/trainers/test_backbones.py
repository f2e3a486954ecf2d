"""timm's names: what is said of them, and their cache on this machine."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
from tests.helpers.tiny import tiny_recipe

from semigrid.trainers.backbones import backbone_problem, timm_names
from semigrid.trainers.models.create import create_model, flops_per_image
from semigrid.trainers.models.weights import hub_weights


@pytest.fixture
def names_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of names in an empty cache; what this process knows from another is forgotten."""
    monkeypatch.setenv("SEMIGRID_CACHE", str(tmp_path))
    timm_names.cache_clear()
    yield tmp_path / f"timm-{version('timm')}.json"
    timm_names.cache_clear()


@pytest.mark.parametrize(
    ("backbone", "pretrained"),
    [
        ("vit_base_patch16_224.mae", True),
        ("resnet18.tv_in1k", True),
        ("resnet18.tv_in1k", False),
        ("resnet18", False),
    ],
)
def test_good_names_have_no_problem(backbone: str, pretrained: bool) -> None:
    assert backbone_problem(backbone, pretrained) is None


def test_an_unknown_name_comes_with_the_nearest() -> None:
    problem = backbone_problem("resnet81", True)
    assert problem is not None
    assert "timm has no backbone of this name" in problem and "resnet18" in problem


def test_a_name_unlike_any_other() -> None:
    assert backbone_problem("???", False) == "timm has no backbone of this name"


def test_an_unknown_tag_comes_with_those_there_are() -> None:
    problem = backbone_problem("resnet18.tv_in2k", True)
    assert problem is not None
    assert "timm has no weights of this tag for resnet18" in problem
    assert "resnet18.tv_in1k" in problem and "resnet18d" not in problem


def test_pretrained_weights_need_their_tag() -> None:
    problem = backbone_problem("resnet18", True)
    assert problem is not None
    assert "pretrained weights need a tag" in problem and "resnet18.tv_in1k" in problem


def test_names_are_checked_without_importing_torch(names_cache: Path) -> None:
    # a typing error in an experiment file is told at once, not after five seconds
    assert backbone_problem("resnet18.tv_in1k", True) is None  # fills the cache
    code = """
import sys
from semigrid.trainers.backbones import backbone_problem
assert backbone_problem("resnet18.tv_in1k", True) is None
print(sorted({"torch", "timm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_damaged_cache_of_names_is_made_again(names_cache: Path) -> None:
    for damaged in ('{"architectures": {"vit', "[]", "{}"):
        names_cache.write_text(damaged)
        timm_names.cache_clear()
        assert "vit_base_patch16_224" in timm_names().architectures


TABLE = re.findall(
    r"^\| `(.+)` \| (\S+) M \| (\S+) G \| (\S+) \| (\d+) \|",
    (Path(__file__).parents[2] / "docs/backbones.md").read_text(),
    re.MULTILINE,
)


def test_the_backbones_of_the_documents_are_as_timm_has_them() -> None:
    assert len(TABLE) == 13
    recipe = tiny_recipe("finetune", img_size=224)
    for name, millions, giga, license, size in TABLE:
        assert backbone_problem(name, pretrained=True) is None
        assert hub_weights(name).source == f"timm/{name}"
        assert hub_weights(name).license == license
        assert timm.get_pretrained_cfg(name).input_size == (3, int(size), int(size))
        with torch.device("meta"):
            model = create_model(name, 0, recipe, {}, False, 0)
        assert f"{sum(each.numel() for each in model.parameters()) / 1e6:.1f}" == millions
        # counted with a forward at 224 pixels, whatever its own size
        flops = flops_per_image(model, 224)
        assert flops is not None and f"{flops / 2e9:.1f}" == giga


def test_plans_tell_the_licences_of_the_documents_backbones() -> None:
    by_name = {name: hub_weights(name).describe() for name, *_ in TABLE}
    assert "cc-by-nc-4.0 (not for commercial use)" in by_name["vit_base_patch16_224.mae"]
    assert [name for name, text in by_name.items() if "not for commercial" in text] == [
        "vit_base_patch16_224.mae"
    ]
    assert "licence dinov3-license," in by_name["convnext_tiny.dinov3_lvd1689m"]
