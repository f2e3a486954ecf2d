"""What is sent to a cluster with a job: the experiment, semigrid's code, and the job's identity."""

import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Any

import fsspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import semigrid
from semigrid.data.errors import InputError
from semigrid.data.storage import open_storage
from semigrid.data.storage.address import BUCKETS, is_local
from semigrid.data.storage.storage import PATIENCE, storage_patience
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.study.layout import EXPERIMENT_COPY
from semigrid.trainers.methods import package_of

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
    """A job to submit; ``folder`` is its results folder, the same on every machine.

    ``pins`` are the packages that Ray installs; without any the cluster must have them all.
    """

    name: str
    folder: str
    text: str
    entrypoint: str
    pins: tuple[str, ...] = ()

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

    def runtime_env(self, folder: Path) -> dict[str, Any]:
        """Ray's runtime environment for the job; ``folder`` receives the files it points at.

        The code goes along, so the cluster runs what is here.
        """
        for name, content in self.files().items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        environment: dict[str, Any] = {"working_dir": str(folder / _JOB)}
        environment["py_modules"] = [str(folder / "semigrid")]
        return environment | ({"pip": list(self.pins)} if self.pins else {})


def job_package(
    experiment: Experiment, only: list[str] | None = None, install: bool = False
) -> JobPackage:
    """The job that runs an experiment, or the cells that match ``only``.

    Raises ``InputError`` for paths that are another place on another machine and, where Ray is to
    ``install`` the packages, as ``pinned_requirements``.
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
    pins = tuple(pinned_requirements(experiment)) if install else ()
    return JobPackage(experiment.file.name, folder, experiment.text, shlex.join(words), pins)


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


def pinned_requirements(experiment: Experiment) -> list[str]:
    """What a job of the experiment requires, and all that requires, at the versions installed here.

    That is what semigrid requires, with the extras of its trackers, what opens its buckets, and the
    packages of its methods. Ray is left out: a cluster has one version of it, which no job can
    change. semigrid itself is sent.

    Raises ``InputError`` for packages that no index has, or that are not installed here.
    """
    file, problems = experiment.file, []
    pins: dict[str, str] = {"semigrid": "", "ray": ""}
    waiting = [("semigrid", {"", *file.trackers})]
    for name in _bucket_packages(file.locations.values()):
        pins[name] = f"{name}=={version(name)}"
        waiting.append((name, {""}))
    for method in sorted({model.method for model in file.models.values()}):
        package = package_of(method)
        if package is None:
            continue
        if package.pip is None:
            problems.append(
                f"--install: method {method}: its package {package.name} {package.version} was "
                "installed from a folder of this machine, where no node can install it from; "
                "install a wheel of it (pip wheel) on every node and submit without --install, or "
                "publish it in an index and install it here from there"
            )
            continue
        pins[canonicalize_name(package.name)] = package.pip
        waiting.append((package.name, {""}))
    while waiting:
        required_by, extras = waiting.pop()
        for requirement in map(Requirement, requires(required_by) or []):
            name, marker = canonicalize_name(requirement.name), requirement.marker
            wanted = marker is None or any(marker.evaluate({"extra": each}) for each in extras)
            if not wanted or name in pins:
                continue
            try:
                pins[name] = f"{name}=={version(name)}"
            except PackageNotFoundError:
                problems.append(
                    f"--install: {required_by} requires {requirement}, which is not installed "
                    f"here: its version is that of this environment; pip install '{requirement}'"
                )
                continue
            waiting.append((name, {""}))
    if problems:
        raise InputError(*problems)
    return sorted(filter(None, pins.values()))


def _bucket_packages(addresses: Iterable[str]) -> list[str]:
    """The packages by which fsspec opens these addresses, such as s3fs."""
    schemes = {address.partition("://")[0].lower() for address in addresses}
    kinds = [fsspec.get_filesystem_class(scheme) for scheme in schemes & {*BUCKETS}]
    modules = {kind.__module__.partition(".")[0] for kind in kinds}
    packages = packages_distributions() if modules else {}
    return sorted({canonicalize_name(name) for module in modules for name in packages[module]})
