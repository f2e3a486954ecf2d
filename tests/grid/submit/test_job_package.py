"""What goes to a cluster with a job; that it runs there is in the cluster's own tests."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobDetails, JobType
from setuptools import find_packages
from tests.helpers.command import semigrid
from tests.helpers.experiments import experiment_text

from semigrid.data.errors import InputError
from semigrid.grid.experiment.load import load_experiment
from semigrid.grid.submit.job_package import (
    FOLDER_KEY,
    job_package,
    own_files,
    pinned_requirements,
)
from semigrid.grid.submit.jobs import was_lost

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
            wheel |= {str(file.relative_to(src / "semigrid")) for file in folder.glob(pattern)}
    assert own_files(src / "semigrid").keys() == wheel and len(wheel) > 100


def test_what_lies_beside_the_code_stays_here(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ours = ["__init__.py", "data/__init__.py", "data/a.py", "grid/__init__.py",
            "grid/experiments/__init__.py", "grid/experiments/mine.yaml"]  # fmt: skip
    others = ["data/.env", "data/notes.txt", "data/keys.yaml", "data/secret.j2", "data/.a.py",
              "data/aprons/0.parquet", "data/aprons/x.py", "data/aprons/x.yaml", "keys.yaml",
              "data/b.py/x.txt", "grid/results/__init__.pyc", ".git/config.py"]  # fmt: skip
    for name in [*ours, *others]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    (source / "data" / ".#lock.py").symlink_to("nowhere")
    assert sorted(own_files(source)) == ours


def test_a_dry_run_lists_what_would_be_sent(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text_for(tmp_path))
    done = semigrid("submit", str(file), "--dry-run", "--address", "http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    names = {line.split()[-1] for line in done.stdout.splitlines()[:-1]}
    assert names == {"job/experiment.yaml", *(f"semigrid/{name}" for name in own_files())}
    assert "the job's command: python -m semigrid run experiment.yaml" in done.stdout
    assert "nothing was sent" in done.stderr and not (tmp_path / "s").exists()


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


def ended(status: str, code: int | None = None, error: str | None = None) -> JobDetails:
    kind = JobType.SUBMISSION
    return JobDetails(
        type=kind, entrypoint="", status=status, driver_exit_code=code, error_type=error
    )


def test_what_was_killed_is_told_from_what_failed() -> None:
    died = [
        ended("FAILED", code=-9),
        ended("FAILED", code=137),  # as a shell has it
        ended("FAILED", error="JOB_SUPERVISOR_ACTOR_DIED"),
        None,
    ]
    others = [
        ended("SUCCEEDED", code=0),
        ended("FAILED", code=1),
        ended("FAILED", code=2),
        ended("FAILED", code=130),
        ended("STOPPED"),
        ended("FAILED", error="RUNTIME_ENV_SETUP_FAILURE"),
    ]
    assert [was_lost(e) for e in died + others] == [True] * len(died) + [False] * len(others)
