"""What each node of a cluster must have, and what of it is missing where this runs."""

import hashlib
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import semigrid.data
import semigrid.trainers
from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.storage import Storage
from semigrid.grid.study.plan import Plan
from semigrid.trainers.weights import file_weights

# In the run's folder: what the driver wrote there, for the nodes to read.
FILE = ".nodes"
PACKAGES = ("torch", "timm", "ray")


@dataclass(frozen=True)
class Needs:
    """``datasets`` has fingerprints by URI, ``weights`` a backbone and a SHA-256 by file."""

    storage: str
    token: str
    datasets: Mapping[str, str]
    weights: Mapping[str, tuple[str, str | None]]
    versions: Mapping[str, str]


def needs_of(plan: Plan, storage: Storage) -> Needs:
    """What the plan's trainings need on a node; leaves a token in the storage."""
    experiment = plan.experiment
    names = {search.cell.dataset for search in plan.searches}
    weights = {}
    for model in {search.cell.model for search in plan.searches}:
        backbone, found = experiment.backbone_of(model), experiment.weights_of(model)
        if isinstance(backbone.pretrained, str) and found is not None:
            weights[found.source] = (str(backbone.backbone), found.sha256)
    token = uuid.uuid4().hex
    storage.write(FILE, token.encode())
    return Needs(
        storage.uri,
        token,
        {experiment.dataset_uri(n): experiment.datasets[n].manifest.fingerprint for n in names},
        weights,
        versions(),
    )


def versions() -> dict[str, str]:
    """Of all that a training's numbers depend on."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, **{p: version(p) for p in PACKAGES}, "semigrid's code": _code()}


def _code() -> str:
    """A hash of the sources that train."""
    found = hashlib.sha256()
    for package in (semigrid.data, semigrid.trainers):
        folder = Path(package.__path__[0])
        for file in sorted(folder.rglob("*.py")):
            found.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def problems_here(needs: Needs) -> list[str]:
    """What this node lacks; nothing is waited for."""
    mine = versions()
    problems = [
        f"{name}: {mine[name]} here, {wanted} where the run was started; install the same"
        for name, wanted in needs.versions.items()
        if mine[name] != wanted
    ]
    problems += _storage_problems(needs)
    for uri, fingerprint in needs.datasets.items():
        try:
            found = open_dataset(uri).manifest.fingerprint
        except (InputError, OSError) as error:
            problems.append(f"datasets: {error}")
            continue
        if found != fingerprint:
            problems.append(
                f"datasets: {uri}: another dataset here; copy the same one to all nodes"
            )
    for uri, (backbone, sha256) in needs.weights.items():
        try:
            same = file_weights(uri, None, backbone).sha256 == sha256
        except (InputError, OSError) as error:
            problems.append(f"weights: {error}")
            continue
        if not same:
            problems.append(f"weights: {uri}: another file here; copy the same one to all nodes")
    return problems


def _storage_problems(needs: Needs) -> list[str]:
    storage = Storage(needs.storage)
    try:
        read = storage.read(FILE).decode()
    except FileNotFoundError:
        read = ""
    except OSError as error:
        return [f"storage: {needs.storage}: cannot be read: {error}"]
    if read != needs.token:
        return [
            f"storage: {needs.storage}: what the driver wrote there cannot be read here; use "
            "storage that all nodes share (a bucket, NFS)"
        ]
    try:
        storage.check_writable()
    except OSError as error:
        return [f"storage: {needs.storage}: cannot be written: {error}"]
    return []
