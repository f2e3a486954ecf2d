"""timm's names: what is said of them, and their cache on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from semigrid.trainers.backbones import backbone_problem, timm_names


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
