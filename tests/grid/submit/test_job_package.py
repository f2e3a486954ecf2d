"""What goes to a cluster with a job; that it runs there is in the cluster's own tests."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobDetails, JobType
from setuptools import find_packages
from tests.helpers.command import semigrid
from tests.helpers.experiments import experiment_text
from tests.helpers.packages import from_document, on_path

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
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
    assert "env_vars" not in sent.runtime_env(tmp_path)
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
    environment = sent.runtime_env(tmp_path)
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


def test_pins_are_what_runs_here(tmp_path: Path) -> None:
    experiment = load_experiment("a.yaml", text=text_for(tmp_path))
    pins = dict(pin.split("==") for pin in pinned_requirements(experiment))
    for name in ("torch", "timm", "optuna", "pyarrow", "matplotlib", "scipy"):
        assert pins[name] == version(name)
    # neither Ray, nor what only an extra or a test needs, nor we ourselves
    assert pins.keys().isdisjoint({"ray", "pytest", "onnx", "mlflow-skinny", "semigrid"})


def test_pins_have_the_extras_that_the_file_needs(tmp_path: Path) -> None:
    text = text_for(tmp_path, trackers=["mlflow", "tensorboard"])
    pins = dict(
        pin.split("==") for pin in pinned_requirements(load_experiment("a.yaml", text=text))
    )
    assert pins["mlflow-skinny"] == version("mlflow-skinny") and "wandb" not in pins
    assert pins["databricks-sdk"] == version("databricks-sdk")  # which it requires
    assert "s3fs" not in pins
    experiment = load_experiment("a.yaml", text=text)
    file = experiment.file.model_copy(update={"storage": "s3://shop/experiments"})
    pins = dict(pin.split("==") for pin in pinned_requirements(replace(experiment, file=file)))
    assert pins["s3fs"] == version("s3fs") and pins["aiobotocore"] == version("aiobotocore")


def mean_teacher_file(tmp_path: Path, **how: object) -> Path:
    """An experiment with the method of the documents, whose package is in the folder."""
    from_document(tmp_path, **how)
    models = {
        "vit": {"backbone": "vit_tiny_patch16_224", "method": "finetune", "pretrained": False},
        "mean": {"from": "vit", "method": "mean-teacher"},
    }
    file = tmp_path / "a.yaml"
    grid = [{"model": "mean", "labels": ["100%"], "unlabeled": ["100%"]}]
    file.write_text(text_for(tmp_path, models=models, grid=grid))
    return file


def test_a_methods_package_is_installed_too(tmp_path: Path, digits: Dataset) -> None:
    file = mean_teacher_file(tmp_path)
    with on_path(tmp_path):
        done = semigrid("submit", str(file), "--dry-run", "--install")
    assert done.returncode == 0, done.stderr
    pins = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("   install")]
    assert "semigrid-mean-teacher==0.1.0" in pins
    # the package requires semigrid, which is sent
    assert not [pin for pin in pins if pin.startswith(("semigrid==", "ray=="))]


def test_a_package_that_no_index_has_is_refused_by_install_alone(
    tmp_path: Path, digits: Dataset
) -> None:
    origin = {"url": f"file://{tmp_path}", "dir_info": {"editable": True}}
    file = mean_teacher_file(tmp_path, origin=origin)
    with on_path(tmp_path):
        experiment = load_experiment(str(file))
        assert job_package(experiment).pins == ()
        with pytest.raises(InputError) as refused:
            job_package(experiment, install=True)
    [problem] = refused.value.problems
    assert problem.startswith(
        "--install: method mean-teacher: its package semigrid-mean-teacher 0.1.0 was installed "
        "from a folder of this machine"
    )
    assert "install a wheel of it (pip wheel) on every node" in problem


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
