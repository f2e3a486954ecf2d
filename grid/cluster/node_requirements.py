"""What each node of a cluster must have, and which of it is missing where this runs."""

import hashlib
import platform
import shlex
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import semigrid.data
import semigrid.trainers
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.study.layout import NODE_TOKEN
from semigrid.grid.study.plan import Plan
from semigrid.trainers.methods import Package, package_of
from semigrid.trainers.methods.registry import forget
from semigrid.trainers.models.weights import file_weights

# Packages whose versions change what a training computes; and what one with an adapter does.
PACKAGES = ("torch", "timm", "ray")
ADAPTERS = "peft"


@dataclass(frozen=True)
class NodeRequirements:
    """What the trainings of a plan need on a node.

    ``token`` is the content of ``NODE_TOKEN`` in the storage; ``datasets`` has fingerprints by
    URI, ``weights`` a backbone and a SHA-256 by file, ``methods`` the package of each method that
    is not semigrid's own, with a hash of its sources.
    """

    storage: str
    token: str
    datasets: Mapping[str, str]
    weights: Mapping[str, tuple[str, str | None]]
    versions: Mapping[str, str]
    methods: Mapping[str, tuple[Package, str]]


def requirements_of(plan: Plan, storage: Storage) -> NodeRequirements:
    """The requirements of a plan; writes the token into the storage."""
    experiment = plan.experiment
    names = {search.cell.dataset for search in plan.searches}
    files = {}
    for model in {search.cell.model for search in plan.searches}:
        backbone, weights = experiment.backbone_of(model), experiment.weights_of(model)
        if isinstance(backbone.pretrained, str) and weights is not None:
            files[weights.source] = (str(backbone.backbone), weights.sha256)
    token = uuid.uuid4().hex
    storage.write(NODE_TOKEN, token.encode())
    recipes = map(plan.recipe, plan.searches)
    adapted = any(getattr(recipe, "adapter", None) is not None for recipe in recipes)
    methods = {plan.method(search.cell) for search in plan.searches}
    return NodeRequirements(
        storage.uri,
        token,
        {experiment.dataset_uri(n): experiment.datasets[n].manifest.fingerprint for n in names},
        files,
        versions([*PACKAGES, ADAPTERS] if adapted else PACKAGES),
        {m: (package, code_of(package)) for m in sorted(methods) if (package := package_of(m))},
    )


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of what a training's numbers depend on, and a hash of semigrid's sources."""
    python = ".".join(platform.python_version_tuple()[:2])
    folders = [Path(package.__path__[0]) for package in (semigrid.data, semigrid.trainers)]
    return {
        "Python": python,
        **{p: _version(p) for p in packages},
        "semigrid's code": hash_of_code(folders),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def hash_of_code(folders: Iterable[Path]) -> str:
    """A hash of the Python files below some folders, or of files."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def code_of(package: Package) -> str:
    """A hash of the sources that bring a method: a folder may change without its version."""
    found = find_spec(package.module)
    places = [*(found.submodule_search_locations or ()), found.origin] if found else []
    return hash_of_code(Path(place) for place in places[:1] if place is not None)


def unmet_requirements(wanted: NodeRequirements) -> list[str]:
    """One message for each requirement that this node does not meet; waits for nothing."""
    forget()  # the answer before may be of this process, and a package installed since
    here = versions([name for name in wanted.versions if name in (*PACKAGES, ADAPTERS)])
    return [
        *(
            f"{name}: {here[name]} here, {there} where the run was started; install the same"
            for name, there in wanted.versions.items()
            if here[name] != there
        ),
        *_method_problems(wanted),
        *_storage_problems(wanted),
        *_dataset_problems(wanted),
        *_weights_problems(wanted),
    ]


def _method_problems(wanted: NodeRequirements) -> Iterator[str]:
    for method, (package, code) in wanted.methods.items():
        here = package_of(method)
        if here is not None and here.name == package.name:
            found = f"is {here.version} here"
            if here.version == package.version:
                if code_of(here) == code:
                    continue
                found = "has other code here"
        else:
            found = "is not installed here"
        remedy = "a wheel of that folder (pip wheel) on this node"
        if package.pip is not None:
            remedy = f"it (pip install {shlex.quote(package.pip)}), or submit with --install"
        yield (
            f"method {method}: its package {package.name} {found}, and {package.version} where the "
            f"run was started; install {remedy}"
        )


def _storage_problems(wanted: NodeRequirements) -> list[str]:
    try:
        storage = open_storage(wanted.storage)
    except InputError as error:  # what opens such an address is not installed here
        return [f"storage: {error}"]
    try:
        token = storage.read(NODE_TOKEN).decode()
    except FileNotFoundError:
        token = ""
    except OSError as error:
        return [f"storage: {wanted.storage}: cannot be read: {error}"]
    if token != wanted.token:
        return [
            f"storage: {wanted.storage}: what the driver wrote there cannot be read here; use "
            "storage that all nodes share (a bucket, NFS)"
        ]
    try:
        storage.check_writable()
    except OSError as error:
        return [f"storage: {wanted.storage}: cannot be written: {error}"]
    return []


def _dataset_problems(wanted: NodeRequirements) -> Iterator[str]:
    for uri, fingerprint in wanted.datasets.items():
        try:
            same = open_dataset(uri).manifest.fingerprint == fingerprint
        except (InputError, OSError) as error:
            yield f"datasets: {error}"
            continue
        if not same:
            yield f"datasets: {uri}: another dataset here; copy the same one to all nodes"


def _weights_problems(wanted: NodeRequirements) -> Iterator[str]:
    for uri, (backbone, sha256) in wanted.weights.items():
        try:
            same = file_weights(uri, None, backbone).sha256 == sha256
        except (InputError, OSError) as error:
            yield f"weights: {error}"
            continue
        if not same:
            yield f"weights: {uri}: another file here; copy the same one to all nodes"
