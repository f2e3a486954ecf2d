"""What each node of a cluster must have, and which of it is missing where this runs."""

import hashlib
import platform
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import semigrid.data
import semigrid.trainers
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.storage import Storage, open_storage
from semigrid.grid.study.layout import NODE_TOKEN
from semigrid.grid.study.plan import Plan
from semigrid.trainers.models.weights import file_weights

# Packages whose versions change what a training computes.
PACKAGES = ("torch", "timm", "ray")


@dataclass(frozen=True)
class NodeRequirements:
    """What the trainings of a plan need on a node.

    ``token`` is the content of ``NODE_TOKEN`` in the storage; ``datasets`` has fingerprints by
    URI, ``weights`` a backbone and a SHA-256 by file.
    """

    storage: str
    token: str
    datasets: Mapping[str, str]
    weights: Mapping[str, tuple[str, str | None]]
    versions: Mapping[str, str]


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
    return NodeRequirements(
        storage.uri,
        token,
        {experiment.dataset_uri(n): experiment.datasets[n].manifest.fingerprint for n in names},
        files,
        versions(),
    )


def versions() -> dict[str, str]:
    """Versions of everything that a training's numbers depend on, and a hash of the sources."""
    digest = hashlib.sha256()
    for package in (semigrid.data, semigrid.trainers):
        folder = Path(package.__path__[0])
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    python, code = ".".join(platform.python_version_tuple()[:2]), digest.hexdigest()[:12]
    return {"Python": python, **{p: version(p) for p in PACKAGES}, "semigrid's code": code}


def unmet_requirements(wanted: NodeRequirements) -> list[str]:
    """One message for each requirement that this node does not meet; waits for nothing."""
    here = versions()
    return [
        *(
            f"{name}: {here[name]} here, {there} where the run was started; install the same"
            for name, there in wanted.versions.items()
            if here[name] != there
        ),
        *_storage_problems(wanted),
        *_dataset_problems(wanted),
        *_weights_problems(wanted),
    ]


def _storage_problems(wanted: NodeRequirements) -> list[str]:
    storage = open_storage(wanted.storage)
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
