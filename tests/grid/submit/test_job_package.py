"""What goes to a cluster with a job; that it runs there is in the cluster's own tests."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages
from tests.helpers.experiments import experiment_text

from semigrid.data.errors import InputError
from semigrid.grid.experiment import load_experiment
from semigrid.grid.submit.job_package import (
    FOLDER_KEY,
    job_package,
    package_files,
    pinned_requirements,
)
from semigrid.grid.submit.jobs import JobEnd

ROOT = Path(__file__).parents[3]


def text_for(tmp_path: Path, **changes: object) -> str:
    return experiment_text(storage=str(tmp_path / "s"), **changes)


def test_a_job_is_known_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment("a.yaml", text=text_for(tmp_path))
    sent = job_package(experiment, ["digits/vit/*", "digits/semi-vit/50%/100%"])
    assert sent.metadata[FOLDER_KEY] == sent.folder == str(tmp_path / "s" / "small")
    assert sent.entrypoint == (
        "python -m semigrid run experiment.yaml --only 'digits/vit/*' "
        "--only digits/semi-vit/50%/100%"
    )
    assert "env_vars" not in sent.runtime_env(tmp_path, install=False)
    monkeypatch.setenv("SEMIGRID_STORAGE_PATIENCE", "300")
    assert job_package(experiment).entrypoint == (
        "SEMIGRID_STORAGE_PATIENCE=300 python -m semigrid run experiment.yaml"
    )
    again = job_package(load_experiment("elsewhere/b.yaml", text=text_for(tmp_path)))
    other = job_package(load_experiment("a.yaml", text=text_for(tmp_path / "other")))
    assert sent.job_id(1) == again.job_id(1) != other.job_id(1)
    assert sent.job_id(1) != sent.job_id(2) and sent.job_id(1).startswith("semigrid-small-")


def test_the_experiment_goes_along_as_the_command_line_has_it(tmp_path: Path) -> None:
    overrides = {"seeds": 3, "storage": str(tmp_path / "elsewhere")}
    sent = job_package(load_experiment("a.yaml", overrides, text_for(tmp_path)))
    environment = sent.runtime_env(tmp_path, install=False)
    assert set(environment) == {"working_dir", "py_modules"}  # nothing of this process's own
    written = yaml.safe_load(Path(environment["working_dir"], "experiment.yaml").read_text())
    assert written["seeds"] == 3 and written["storage"] == str(tmp_path / "elsewhere")
    assert [Path(path).name for path in environment["py_modules"]] == ["semigrid"]
    package = Path(environment["py_modules"][0])
    assert (package / "grid/experiments/quickstart.yaml").exists()
    assert (package / "trainers/__init__.py").exists()


def test_the_code_that_goes_along_is_what_a_wheel_holds() -> None:
    """Against setuptools and the project's own settings, so that the two cannot drift apart."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    src = ROOT / "src"
    wheel = set()
    for package in find_packages(str(src)):
        folder = src / package.replace(".", "/")
        for pattern in ["*.py", *settings["package-data"].get(package, [])]:
            wheel |= {file.relative_to(src / "semigrid") for file in folder.glob(pattern)}
    listed = [file.relative_to(src / "semigrid") for file in package_files(src / "semigrid")]
    assert set(listed) == wheel and len(listed) == len(wheel) > 100


def test_datasets_beside_the_code_stay_here(tmp_path: Path) -> None:
    for name in ("__init__.py", "data/__init__.py", "data/aprons/0.parquet", "data/aprons/x.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "notes.txt").touch()
    files = [str(file.relative_to(tmp_path)) for file in package_files(tmp_path)]
    assert files == ["__init__.py", "data/__init__.py"]


def test_pins_are_what_runs_here() -> None:
    pins = dict(pin.split("==") for pin in pinned_requirements())
    for name in ("torch", "timm", "optuna", "pyarrow", "matplotlib", "scipy"):
        assert pins[name] == version(name)
    # neither Ray, nor what only an extra or a test needs, nor we ourselves
    assert pins.keys().isdisjoint({"ray", "pytest", "onnx", "mlflow-skinny", "semigrid"})


def test_relative_paths_are_refused_each_by_its_key(tmp_path: Path) -> None:
    text = experiment_text(storage="results", datasets={"digits": "builtin://digits"})
    with pytest.raises(InputError, match="a.yaml: storage: 'results' is relative"):
        job_package(load_experiment("a.yaml", text=text))


def test_no_cluster_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text_for(tmp_path))
    command = [sys.executable, "-m", "semigrid", "submit", str(file)]
    command += ["--address", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--address http://127.0.0.1:9: no Ray cluster that takes jobs" in done.stderr
    assert not (tmp_path / "s").exists()


def test_what_was_killed_is_told_from_what_failed() -> None:
    died = [
        JobEnd("FAILED", code=-9),
        JobEnd("FAILED", code=137),  # as a shell has it
        JobEnd("FAILED", error="JOB_SUPERVISOR_ACTOR_DIED"),
        JobEnd("UNKNOWN"),
    ]
    ended = [
        JobEnd("SUCCEEDED", code=0),
        JobEnd("FAILED", code=1),
        JobEnd("FAILED", code=2),
        JobEnd("FAILED", code=130),
        JobEnd("STOPPED"),
        JobEnd("FAILED", error="RUNTIME_ENV_SETUP_FAILURE", message="no such package"),
    ]
    assert [e.lost for e in died + ended] == [True] * len(died) + [False] * len(ended)
