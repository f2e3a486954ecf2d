"""What goes to the cluster with a job: the experiment, the code, and what tells it from others."""

import hashlib
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import semigrid
from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.data.storage.patience import PATIENCE, storage_patience
from semigrid.grid.experiment import EXPERIMENT_COPY, Experiment

# the key of a job's metadata by which it is known whose folder it writes to
FOLDER_KEY = "semigrid-folder"
PACKAGE_FILES = (".py", ".yaml", ".j2")


@dataclass(frozen=True)
class Parcel:
    """``folder`` is where the results lie, the same for who submits and for the cluster."""

    name: str
    folder: str
    text: str
    entrypoint: str

    @property
    def metadata(self) -> dict[str, str]:
        return {FOLDER_KEY: self.folder, "semigrid-experiment": self.name}

    def job_id(self, number: int) -> str:
        """Of the job that is this experiment's ``number``-th: Ray refuses the same one twice.

        So two people who submit it at the same moment start one job, not two.
        """
        folder = hashlib.sha256(self.folder.encode()).hexdigest()[:8]
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", self.name)
        return f"semigrid-{name}-{folder}-{number}"


def parcel(experiment: Experiment, only: list[str] | None = None) -> Parcel:
    """Raises ``InputError`` for paths that mean another place on another machine."""
    problems = [
        f"{experiment.source}: {key}: {path!r} is relative, and means another folder on each "
        "machine; give a URI, or an absolute path that every node of the cluster has"
        for key, path in experiment.file.locations.items()
        if "://" not in path and not path.startswith("/")
    ]
    if problems:
        raise InputError(*problems)
    # before the command: the driver's own runtime environment may not name it once more
    words = [f"{PATIENCE}={storage_patience():g}"] if os.environ.get(PATIENCE) else []
    words += ["python", "-m", "semigrid", "run", EXPERIMENT_COPY]
    for pattern in only or []:
        words += ["--only", pattern]
    return Parcel(
        experiment.file.name,
        Storage(experiment.folder).uri,
        experiment.text,
        shlex.join(words),
    )


def runtime_env(parcel: Parcel, folder: Path, install: bool) -> dict[str, Any]:
    """Ray's runtime environment of the job; writes the experiment into the folder.

    The code goes along, so that the cluster runs what is here. With ``install`` so do the versions
    of all packages that it needs, for Ray to install where they are not; else they must be there.
    """
    working_dir, package = folder / "job", folder / "semigrid"
    working_dir.mkdir()
    (working_dir / EXPERIMENT_COPY).write_text(parcel.text)
    shutil.copytree(semigrid.__path__[0], package, ignore=_not_of_the_package)
    environment: dict[str, Any] = {
        "working_dir": str(working_dir),
        "py_modules": [str(package)],
    }
    if install:
        environment["pip"] = pinned_requirements()
    return environment


def _not_of_the_package(folder: str, names: list[str]) -> list[str]:
    """What lies beside the package's own files: a checkout's ``data`` may hold datasets."""
    return [
        name
        for name in names
        if Path(name).suffix not in PACKAGE_FILES and not Path(folder, name, "__init__.py").exists()
    ]


def pinned_requirements() -> list[str]:
    """semigrid's own requirements and all that those require, at the versions that are here.

    But for Ray itself: a cluster is of one version of it, which no job can change.
    """
    found: dict[str, str] = {}
    waiting = ["semigrid"]
    while waiting:
        for requirement in requires(waiting.pop()) or []:
            name, extras_only = _name(requirement)
            if extras_only or name in found:
                continue
            try:
                found[name] = version(name)
            except PackageNotFoundError:  # of another platform
                continue
            waiting.append(name)
    return sorted(f"{name}=={number}" for name, number in found.items() if name != "ray")


def _name(requirement: str) -> tuple[str, bool]:
    """A requirement's package in its normal form, and whether only an extra asks for it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower(), "extra ==" in requirement
