"""Reads an experiment file, opens what it names, and refuses it with all its problems at once."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import ValidationError

from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError, StorageGoneError
from semigrid.data.redact import shown
from semigrid.data.schema import FORMAT, Dataset, Manifest
from semigrid.data.storage import open_storage
from semigrid.data.yaml_files import parse_yaml, read_yaml
from semigrid.grid.experiment.checks import problems_of
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.messages import problems_in
from semigrid.grid.experiment.schema import ExperimentFile, ModelConfig
from semigrid.trainers.methods import method_names
from semigrid.trainers.methods.recorded import read_methods
from semigrid.trainers.methods.registry import recall
from semigrid.trainers.models.weights import UNSTATED, Weights, file_weights, hub_weights

_MAPPING = "an experiment is a mapping with name, datasets, models, grid"
# Longest message about one problem, in characters: values of a file may be of any length.
_LONGEST = 1500


def load_experiment(
    path: str,
    overrides: dict[str, Any] | None = None,
    text: str | None = None,
    workers: int | None = None,
    without_data: bool = False,
) -> Experiment:
    """Reads and checks an experiment file and its datasets; writes and starts nothing.

    Args:
        path: the file, for messages and, if ``text`` is None, to read.
        overrides: top-level keys to replace (the command line's options).
        text: the file's content, if it is read already.
        workers: number of workers for all models, replacing that of every ``train`` section.
        without_data: assume the datasets instead of opening them, to count cells and trainings
            before the datasets are built.

    Raises:
        InputError: with every problem of the file, each naming the key's path, the value, and
            what would be right.
    """
    if text is None:
        text = read_yaml(path)
    content = {**parse_yaml(path, text, _MAPPING), **(overrides or {})}
    if workers is not None:
        _set_workers(content, workers)
    _recall_methods(content)
    try:
        file = ExperimentFile.model_validate(content)
    except ValidationError as error:
        raise _refusal(path, problems_in(error)) from error
    if secrets := _secret_problems(file):  # first, since other messages would show them
        raise _refusal(path, secrets)
    problems: list[str] = []
    datasets: dict[str, Dataset] = {}
    weights: dict[str, Weights] = {}
    with _noting(problems, "storage"):
        open_storage(file.storage).confirm()  # refuses places that are only read
    for name, config in file.datasets.items():
        with _noting(problems, f"datasets.{name}"):
            datasets[name] = _assumed_dataset(name) if without_data else open_dataset(config.uri)
    for name, model in file.models.items():
        if model.parent is None and model.backbone is not None and model.pretrained is not False:
            with _noting(problems, f"models.{name}.pretrained"):
                weights[name] = _weights_of(model, model.backbone)
    pinned = [name for name in weights if isinstance(file.models[name].pretrained, str)]
    for name in pinned:
        found = weights[name]
        content["models"][name] |= {
            "pretrained": found.source,
            "weights_sha256": found.sha256,
            "weights_license": found.license,
        }
    if overrides or workers is not None or pinned:
        text = yaml.safe_dump(content, sort_keys=False)  # the folder's copy says what ran
    experiment = Experiment(path, file, text, datasets, weights)
    problems += problems_of(experiment)
    if problems:
        raise _refusal(path, problems)
    return experiment


def _recall_methods(content: dict[str, Any]) -> None:
    """Makes methods known whose package is gone, if a run wrote them down in its folder."""
    models, place = content.get("models"), content.get("storage", "results")
    models = models.values() if isinstance(models, dict) else ()
    asked = [model.get("method") for model in models if isinstance(model, dict)]
    gone = {name for name in asked if isinstance(name, str)} - {*method_names()}
    if not gone or not isinstance(place, str):
        return
    with contextlib.suppress(StorageGoneError, PermissionError):  # said where the file is checked
        for recorded in read_methods(open_storage(f"{place.rstrip('/')}/{content.get('name')}")):
            if recorded.name in gone:
                recall(recorded)


@contextlib.contextmanager
def _noting(problems: list[str], key: str) -> Iterator[None]:
    """Adds to the problems why a key names nothing that can be opened."""
    try:
        yield
    except (InputError, StorageGoneError) as error:
        problems.append(f"{key}: {error}")


def _refusal(path: str, problems: Iterable[str]) -> InputError:
    return InputError(
        *(
            f"{path}: {problem[:_LONGEST]}{'…' if len(problem) > _LONGEST else ''}"
            for problem in problems
        )
    )


def _set_workers(content: dict[str, Any], workers: int) -> None:
    """Replaces every number of workers, as far as the sections have the right form."""
    content["train"] = content.get("train") or {}
    sections = [content["train"]]
    models = content.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        sections.append(model.get("train") if isinstance(model, dict) else None)
    for section in sections:
        if isinstance(section, dict):
            section["workers"] = workers


def _secret_problems(file: ExperimentFile) -> list[str]:
    """Credentials in URIs, which the run's folder and its reports would spread."""
    return [
        f"{key}: {shown(location)!r} has credentials in it; take them out and give them to every "
        "machine by its environment (AWS_ACCESS_KEY_ID, …) or its role"
        for key, location in file.locations.items()
        if shown(location) != location
    ]


def _assumed_dataset(name: str) -> Dataset:
    """A dataset that is large enough for every fraction and multiplier."""
    many = 10**6
    manifest = Manifest(
        format=FORMAT,
        name=name,
        classes=("any",),
        counts={"train": {"any": many}, "val": {"any": many}, "test": {"any": many}},
        pool=100 * many,
        pool_unit=many,
        fingerprint=f"assumed {name}",
        license="unknown",
        source="assumed",
        order_seed=0,
        shards=(),
    )
    return Dataset(open_storage("assumed"), manifest)


def _weights_of(model: ModelConfig, backbone: str) -> Weights:
    """The pretrained weights that a model starts from; raises ``InputError`` for the wrong file."""
    if not isinstance(model.pretrained, str):
        return hub_weights(backbone)
    try:
        weights = file_weights(model.pretrained, model.weights_license, backbone)
    except (InputError, StorageGoneError):
        if model.weights_sha256 is None:
            raise
        # the results of a run stay readable on machines that lack its weights
        source, license = open_storage(model.pretrained).uri, model.weights_license or UNSTATED
        return Weights(source=source, license=license, sha256=model.weights_sha256)
    if model.weights_sha256 not in (None, weights.sha256):
        raise InputError(
            f"{model.pretrained!r} has the SHA-256 {weights.sha256}, but weights_sha256 is "
            f"{model.weights_sha256}; use the right file, or take weights_sha256 out"
        )
    return weights
