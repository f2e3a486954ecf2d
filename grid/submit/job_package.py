"""What is sent to a cluster with a job: the experiment, semigrid's code, and the job's identity."""

import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import semigrid
from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import is_local
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.layout import EXPERIMENT_COPY

_JOB = "job"  # the job's working directory
# Key of a job's metadata that tells which results folder it writes to.
FOLDER_KEY = "semigrid-folder"
# files of semigrid beside its modules, by their folder
RESOURCES = {
    "grid/experiments": "*.yaml",
    "grid/export": "*.j2",
    "grid/report": "*.j2",
    "grid/submit": "*.j2",
}


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
        folder = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self.name)
        return f"semigrid-{name}-{folder}-{number}"

    def files(self) -> dict[str, bytes]:
        """Everything that is sent, by name: the experiment and the code."""
        code = {f"semigrid/{name}": path.read_bytes() for name, path in own_files().items()}
        return {f"{_JOB}/{EXPERIMENT_COPY}": self.text.encode(), **code}

    def runtime_env(self, folder: Path, install: bool) -> dict[str, Any]:
        """Ray's runtime environment for the job; ``folder`` receives the files it points at.

        The code goes along, so the cluster runs what is here. With ``install``, Ray also installs
        the versions of all packages that are here; otherwise the cluster must have them.
        """
        for name, content in self.files().items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        environment: dict[str, Any] = {"working_dir": str(folder / _JOB)}
        environment["py_modules"] = [str(folder / "semigrid")]
        return environment | ({"pip": pinned_requirements()} if install else {})


def job_package(experiment: Experiment, only: list[str] | None = None) -> JobPackage:
    """The job that runs an experiment, or the cells that match ``only``.

    Raises ``InputError`` for paths that are another place on another machine.
    """
    problems = [
        f"{experiment.source}: {key}: {path!r} is relative, and means another folder on each "
        "machine; give a URI, or an absolute path that every node of the cluster has"
        for key, path in experiment.file.locations.items()
        if is_local(path) and not path.startswith("/")
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


def own_files(root: Path | None = None) -> dict[str, Path]:
    """semigrid's own files by their names in the package: those that a wheel of it holds.

    Others may lie beside them in a checkout, such as datasets or keys in ``data``.
    """
    root = Path(semigrid.__path__[0]) if root is None else root
    files = {}
    folders = [root]
    while folders:
        folder = folders.pop()
        name = folder.relative_to(root).as_posix()
        for pattern in ("*.py", RESOURCES.get(name)):
            for file in folder.glob(pattern) if pattern else ():
                if file.is_file() and not file.name.startswith("."):
                    files[file.relative_to(root).as_posix()] = file
        folders += [path.parent for path in folder.glob("*/__init__.py")]
    return dict(sorted(files.items()))


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
