"""What a node lacks is found on it, all at once."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from tests.helpers.experiments import experiment_text
from tests.helpers.packages import from_document, on_path

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.grid.cluster import node_requirements
from semigrid.grid.cluster.node_requirements import (
    NodeRequirements,
    requirements_of,
    unmet_requirements,
)
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.study.layout import NODE_TOKEN
from semigrid.grid.study.plan import Plan


@pytest.fixture
def plan(tmp_path: Path, digits: Dataset) -> Plan:
    text = experiment_text(storage=str(tmp_path))
    return Plan(load_experiment("small.yaml", text=text))


def test_the_machine_of_the_run_lacks_nothing_and_keeps_no_probe(
    plan: Plan, tmp_path: Path
) -> None:
    assert unmet_requirements(requirements_of(plan, open_storage(tmp_path))) == []
    assert [p.name for p in tmp_path.iterdir()] == [NODE_TOKEN]


def test_a_disk_of_its_own_is_not_the_runs_storage(plan: Plan, tmp_path: Path) -> None:
    needs = requirements_of(plan, open_storage(tmp_path))
    (tmp_path / NODE_TOKEN).write_text("another run's")
    (found,) = unmet_requirements(needs)
    assert str(tmp_path) in found and "what the driver wrote there cannot be read here" in found


def test_all_that_is_missing_is_said_at_once(plan: Plan, tmp_path: Path) -> None:
    needs = requirements_of(plan, open_storage(tmp_path))
    (tmp_path / "w.safetensors").write_bytes(b"1")
    lacking = replace(
        needs,
        token="another",
        datasets={"builtin://digits": "another", str(tmp_path / "none"): "x"},
        weights={str(tmp_path / "w.safetensors"): ("resnet18", "0" * 64)},
        versions={**needs.versions, "torch": "0.1", "semigrid's code": "another"},
    )
    found = unmet_requirements(lacking)
    expected = ["torch", "semigrid's code", "storage", "datasets", "datasets", "weights"]
    assert [problem.partition(":")[0] for problem in found] == expected
    assert "0.1 where the run was started" in found[0]


MODELS = {
    "vit": {"backbone": "vit_tiny_patch16_224", "method": "finetune", "pretrained": False},
    "mean": {"from": "vit", "method": "mean-teacher"},
}
GRID = [{"model": "mean", "labels": ["100%"], "unlabeled": ["100%"]}]


def needs_of(folder: Path, **how: object) -> NodeRequirements:
    """Those of a run whose machine has the package of the document in this folder."""
    folder.mkdir()
    from_document(folder, **how)
    with on_path(folder):
        text = experiment_text(storage=str(folder.parent), models=MODELS, grid=GRID)
        plan = Plan(load_experiment("small.yaml", text=text))
        needs = requirements_of(plan, open_storage(folder.parent))
        assert unmet_requirements(needs) == []
    return needs


def test_a_node_needs_the_packages_of_the_files_methods(digits: Dataset, tmp_path: Path) -> None:
    needs = needs_of(tmp_path / "driver")
    remedy = "install it (pip install semigrid-mean-teacher==0.1.0), or submit with --install"
    of = "method mean-teacher: its package semigrid-mean-teacher"
    there = "and 0.1.0 where the run was started"
    assert unmet_requirements(needs) == [f"{of} is not installed here, {there}; {remedy}"]
    other, changed = tmp_path / "other", tmp_path / "changed"
    for folder, number in ((other, "0.2.0"), (changed, "0.1.0")):
        folder.mkdir()
        module = from_document(folder, number)
    with (changed / f"{module}.py").open("a") as file:
        file.write("LATER = 1\n")
    with on_path(other):
        assert unmet_requirements(needs) == [f"{of} is 0.2.0 here, {there}; {remedy}"]
    with on_path(changed):
        assert unmet_requirements(needs) == [f"{of} has other code here, {there}; {remedy}"]


def test_a_package_of_a_folder_is_taken_to_nodes_as_a_wheel(
    digits: Dataset, tmp_path: Path
) -> None:
    origin = {"url": "file:///home/me/mean-teacher", "dir_info": {"editable": True}}
    [found] = unmet_requirements(needs_of(tmp_path / "driver", origin=origin))
    assert found.endswith("install a wheel of that folder (pip wheel) on this node")


def test_a_node_needs_peft_for_adapters_only(
    plan: Plan, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "peft" not in requirements_of(plan, open_storage(tmp_path)).versions
    models = {"vit": {**MODELS["vit"], "recipe": {"adapter": {"kind": "lora"}}}}
    grid = [{"model": "vit", "labels": ["100%"]}]
    text = experiment_text(storage=str(tmp_path), models=models, grid=grid)
    needs = requirements_of(Plan(load_experiment("small.yaml", text=text)), open_storage(tmp_path))
    assert needs.versions["peft"] == version("peft") and unmet_requirements(needs) == []

    def without_peft(package: str) -> str:
        if package == "peft":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(node_requirements, "version", without_peft)
    [found] = unmet_requirements(needs)
    assert found.startswith(f"peft: none here, {version('peft')} where the run was started")
