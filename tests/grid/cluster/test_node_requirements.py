"""What a node lacks is found on it, all at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.experiments import experiment_text

from semigrid.data.schema import Dataset
from semigrid.data.storage import open_storage
from semigrid.grid.cluster.node_requirements import requirements_of, unmet_requirements
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
