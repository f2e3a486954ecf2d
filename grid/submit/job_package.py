"""What is sent to a cluster with a job: the experiment, semigrid's code, and the job's identity."""

import hashlib
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import semigrid
from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.layout import EXPERIMENT_COPY

# Key of a job's metadata that tells which results folder it writes to.
FOLDER_KEY = "semigrid-folder"
PACKAGE_SUFFIXES = (".py", ".yaml", ".j2")


@dataclass(frozen=True)
class JobPackage:
    """A job to submit; ``folder`` is its results folder, the same on every machine."""

    name: str
    folder: str
    text: str
    entrypoint: str

    @property
    def metadata(self) -> dict[str, str]:
        return {FOLDER_KEY: self.folder, "semigrid-experiment": self.name}

    def job_id(self, number: int) -> str:
        """Identity of this experiment's job ``number``.

        Ray refuses a second job of the same identity, so two people who submit at the same moment
        start one job.
        """
        folder = hashlib.sha256(self.folder.encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self.name)
        return f"semigrid-{name}-{folder}-{number}"

    def runtime_env(self, folder: Path, install: bool) -> dict[str, Any]:
        """Ray's runtime environment for the job; ``folder`` receives the files it points at.

        The code goes along, so the cluster runs what is here. With ``install``, Ray also installs
        the versions of all packages that are here; otherwise the cluster must have them.
        """
        working_dir, package = folder / "job", folder / "semigrid"
        working_dir.mkdir()
        (working_dir / EXPERIMENT_COPY).write_text(self.text)
        shutil.copytree(semigrid.__path__[0], package, ignore=not_in_wheel)
        environment = {"working_dir": str(working_dir), "py_modules": [str(package)]}
        return environment | ({"pip": pinned_requirements()} if install else {})


def job_package(experiment: Experiment, only: list[str] | None = None) -> JobPackage:
    """The job that runs an experiment, or the cells that match ``only``.

    Raises ``InputError`` for paths that are another place on another machine.
    """
    problems = [
        f"{experiment.source}: {key}: {path!r} is relative, and means another folder on each "
        "machine; give a URI, or an absolute path that every node of the cluster has"
        for key, path in experiment.file.locations.items()
        if "://" not in path and not path.startswith("/")
    ]
    if problems:
        raise InputError(*problems)
    # set in the command, since Ray refuses a variable that the driver's runtime_env sets again
    words = [f"{PATIENCE}={storage_patience():g}"] if os.environ.get(PATIENCE) else []
    words += ["python", "-m", "semigrid", "run", EXPERIMENT_COPY]
    for pattern in only or []:
        words += ["--only", pattern]
    folder = open_storage(experiment.folder).uri
    return JobPackage(experiment.file.name, folder, experiment.text, shlex.join(words))


def not_in_wheel(folder: str, names: list[str]) -> set[str]:
    """Names in a Python package's folder that its wheel leaves out, for ``shutil.copytree``.

    Other files may lie beside the code in a checkout, such as datasets in ``data``.
    """
    paths = [Path(folder, name) for name in names if not name.endswith(PACKAGE_SUFFIXES)]
    return {path.name for path in paths if not (path / "__init__.py").exists()}


def pinned_requirements() -> list[str]:
    """semigrid's requirements and everything they require, at the versions installed here.

    Ray is left out: a cluster has one version of it, which no job can change.
    """
    pins: dict[str, str] = {}
    waiting = ["semigrid"]
    while waiting:
        for requirement in map(Requirement, requires(waiting.pop()) or []):
            name = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and name not in pins:
                pins[name] = version(name)
                waiting.append(name)
    return sorted(f"{name}=={number}" for name, number in pins.items() if name != "ray")
