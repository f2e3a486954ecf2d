"""The experiment file: read, validated whole, and every problem said in one message."""

import difflib
import re
from collections.abc import Hashable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from semigrid.data.catalog import open_dataset
from semigrid.data.errors import InputError
from semigrid.data.schema import FORMAT, Dataset, Manifest
from semigrid.data.splits import empty_classes, images_at, pool_subset
from semigrid.data.storage import Storage
from semigrid.data.storage.patience import StorageGoneError
from semigrid.trainers.models import backbone_problem
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import Method, Recipe, published, resolve, why_unused
from semigrid.trainers.weights import UNSTATED, Weights, file_weights, hub_weights


def _percent(value: Any) -> Fraction:
    if isinstance(value, Fraction):
        return value
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", str(value))
    if not match:
        raise ValueError("must be a percentage such as 25%")
    return Fraction(match[1]) / 100


Percent = Annotated[Fraction, BeforeValidator(_percent)]
NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

# of the file in its run's folder: what ran there last
EXPERIMENT_COPY = "experiment.yaml"


def show_percent(value: Fraction) -> str:
    """``Fraction(1, 4)`` as ``25%``."""
    return f"{float(value * 100):.10g}%"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetConfig(_Section):
    """A dataset's folder or URI, and the number of pool images that ``unlabeled: 100%`` means."""

    uri: str
    pool_unit: int | None = Field(None, gt=0)


class ModelConfig(_Section):
    """A row of models: a backbone to fine-tune, or ``from`` a model to go on from with ``semi``.

    ``pretrained`` is true for timm's weights of the backbone's tag, false for random weights, or
    the path or URI of a file; ``weights_license`` is that file's, and ``weights_sha256``, where it
    is given, must be its hash.
    """

    backbone: str | None = None
    from_: str | None = Field(None, alias="from")
    method: Method
    pretrained: bool | str = True
    weights_license: str | None = None
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    backbone_args: dict[str, JsonValue] = {}
    recipe: dict[str, Any] = {}
    train: TrainOptions | None = None  # the options it gives replace those of the file

    @field_validator("train")
    @classmethod
    def _without_options_of_the_run(cls, train: TrainOptions | None) -> TrainOptions | None:
        of_the_run = {"precision", "stream"} & (set() if train is None else train.model_fields_set)
        if of_the_run:
            raise ValueError(f"{', '.join(sorted(of_the_run))}: one for all models, set in train")
        return train


class GridEntry(_Section):
    """Cells: one model at label fractions and, for ``semi``, unlabelled multipliers."""

    model: str
    labels: list[Percent] = Field(min_length=1)
    unlabeled: list[Percent] | None = Field(None, min_length=1)
    datasets: list[str] | None = Field(None, min_length=1)


class Around(_Section):
    """A range around a value, the recipe's own unless said: ``{times: 4}``, ``{plus: 0.1}``."""

    around: float | None = None
    times: float | None = Field(None, gt=1, allow_inf_nan=False)
    plus: float | None = Field(None, gt=0, allow_inf_nan=False)

    def range(self, value: float) -> tuple[float, float]:
        """Lowest and highest value."""
        middle = value if self.around is None else self.around
        if self.times is not None:
            return middle / self.times, middle * self.times
        assert self.plus is not None
        return middle - self.plus, middle + self.plus


# [lowest, highest], a range around a value, or null: not searched
Range = tuple[float, float] | Around | None


class SearchConfig(_Section):
    """Trials per cell, the first of them the published recipe, suggested in waves.

    ``space`` has ranges by method or, over those, by model. With ``early_stopping`` one of
    ``reduction_factor`` trials goes on at each rung; with ``warm_start`` a cell's first suggestion
    is the winner of the next smaller label fraction, or pool.
    """

    trials: int = Field(1, gt=0, le=100_000)
    wave: int = Field(4, gt=0, le=1000)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    space: dict[str, dict[str, Range]] = {}
    early_stopping: bool = False
    reduction_factor: int = Field(3, ge=2)
    warm_start: bool = False

    def ranges(self, method: str, model: str) -> dict[str, Range]:
        """What the file says of a model's search space."""
        return {**self.space.get(method, {}), **self.space.get(model, {})}


class ExperimentFile(_Section):
    """The file as written; ``load_experiment`` turns it into an ``Experiment``."""

    name: Name
    datasets: dict[Name, DatasetConfig | str] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(min_length=1)
    grid: list[GridEntry] = Field(min_length=1)
    search: SearchConfig = SearchConfig()
    seeds: int = Field(1, gt=0, le=1000)
    train: TrainOptions = TrainOptions()
    trackers: list[Literal["optuna", "tensorboard", "mlflow", "wandb"]] = ["optuna", "tensorboard"]
    # of a device-hour, by kind as the ledger has it, in whatever currency
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    storage: str = Field("results", min_length=1, pattern=NO_CONTROLS)


class Experiment(BaseModel):
    """A valid experiment with its datasets' manifests read."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    source: str
    file: ExperimentFile
    text: str
    datasets: dict[str, Dataset]
    weights: dict[str, Weights]  # of the models that start from pretrained weights

    @property
    def folder(self) -> str:
        """Where this experiment's ledger, weights and predictions lie."""
        return f"{self.file.storage.rstrip('/')}/{self.file.name}"

    def dataset_uri(self, name: str) -> str:
        """The dataset's URI as any process can open it, whatever its working directory."""
        uri = _uri(self.file.datasets[name])
        return uri if uri.startswith("builtin://") else Storage(uri).uri

    def pool_unit(self, name: str) -> int:
        """Pool images that the multiplier 100 % means."""
        config = self.file.datasets[name]
        own = config.pool_unit if isinstance(config, DatasetConfig) else None
        return own or self.datasets[name].manifest.pool_unit

    def backbone_of(self, model: str) -> ModelConfig:
        """The model that gives a model its backbone: itself, or the one it comes ``from``."""
        config = self.file.models[model]
        return config if config.from_ is None else self.backbone_of(config.from_)

    def train_of(self, model: str) -> TrainOptions:
        """How a model's trainings run: the file's ``train`` with the model's own over it."""
        own = self.file.models[model].train
        update = {} if own is None else own.model_dump(exclude_unset=True)
        return self.file.train.model_copy(update=update)

    def weights_of(self, model: str) -> Weights | None:
        """The pretrained weights that a model, or the one it comes ``from``, starts with."""
        parent = self.file.models[model].from_
        return self.weights.get(model if parent is None else parent)

    def recipe_of(self, model: str) -> Recipe:
        """The model's unresolved recipe: published values with the file's over them."""
        config = self.file.models[model]
        backbone = self.backbone_of(model).backbone
        assert backbone is not None
        inherited = {} if config.from_ is None else _view_overrides(self.file.models[config.from_])
        return published(config.method, backbone, {**inherited, **config.recipe})


# What a model and its child share unless the child says otherwise: the images must keep their form
_INHERITED = ("img_size", "hflip", "global_pool")


def _view_overrides(parent: ModelConfig) -> dict[str, Any]:
    return {name: parent.recipe[name] for name in _INHERITED if name in parent.recipe}


def _uri(config: DatasetConfig | str) -> str:
    return config if isinstance(config, str) else config.uri


def places(file: ExperimentFile) -> list[tuple[str, str]]:
    """Every path and URI of an experiment, by its key."""
    found = [("storage", file.storage)]
    found += [(f"datasets.{name}", _uri(dataset)) for name, dataset in file.datasets.items()]
    for name, model in file.models.items():
        if isinstance(model.pretrained, str):
            found.append((f"models.{name}.pretrained", model.pretrained))
    return found


# a password before the host, or a parameter that is named like one
_SECRET = re.compile(
    r"(?<=://)[^/@]*:[^/@]*(?=@)|(?<=[?&])[^=&]*(?:key|secret|token|password|signature|sig)[^=&]*=[^&]*",
    re.IGNORECASE,
)


def _secret_problems(file: ExperimentFile) -> list[str]:
    """An experiment is copied into its results' folder, and shown: nothing in it is secret."""
    return [
        f"{key}: {_SECRET.sub('***', place)!r} has credentials in it; take them out, and give them "
        "where every machine finds them: in the environment (AWS_ACCESS_KEY_ID, …) or by its role"
        for key, place in places(file)
        if _SECRET.search(place)
    ]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys silently; an experiment must not."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, OverflowError) as error:  # a date such as 2001-99-99
            raise yaml.constructor.ConstructorError(
                None, None, f"{error or type(error).__name__}", node.start_mark
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # <<: what it brings may be said again, that is its purpose
            key = self.construct_object(key_node, deep=deep)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, f"line {line}: a key must be text, not a list or section"
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"line {line}: the key {key!r} stands twice in one section"
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_experiment(
    path: str,
    overrides: dict[str, Any] | None = None,
    text: str | None = None,
    workers: int | None = None,
    without_data: bool = False,
) -> Experiment:
    """Reads and checks an experiment file, its datasets included; nothing is written or started.

    Args:
        path: the file, for messages and, if ``text`` is None, to read.
        overrides: top-level keys to replace (the command line's options).
        text: the file's content, where it is read already.
        workers: replaces ``train.workers``.
        without_data: take the datasets for granted instead of opening them, to count cells and
            trainings before there are any.

    Raises:
        InputError: with every problem found, each naming the key's path, the value, and what
            would be right.
    """
    if text is None:
        text = _read(path)
    content = _parse(path, text)
    content.update(overrides or {})
    train = content.get("train") or {}
    if workers is not None and isinstance(train, dict):
        content["train"] = {**train, "workers": workers}
        _drop_own_workers(content.get("models"))
    try:
        file = ExperimentFile.model_validate(content)
    except ValidationError as error:
        found = dict.fromkeys(_explain(e) for e in error.errors())  # a union says it twice
        raise InputError(*(f"{path}: {_cut(problem)}" for problem in found)) from error
    if secrets := _secret_problems(file):  # before anything else could show them
        raise InputError(*(f"{path}: {problem}" for problem in secrets))
    problems = _model_problems(file) + _grid_problems(file)
    datasets: dict[str, Dataset] = {}
    for name, config in file.datasets.items():
        try:
            datasets[name] = _assumed(name) if without_data else open_dataset(_uri(config))
        except InputError as error:
            problems.append(f"datasets.{name}: {error}")
    weights, weight_problems = _weights(file)
    problems += weight_problems
    pinned = _pin_weights(content, file, weights)
    if overrides or workers is not None or pinned:
        text = yaml.safe_dump(content, sort_keys=False)  # the folder's copy says what ran
    experiment = Experiment(source=path, file=file, text=text, datasets=datasets, weights=weights)
    problems += _space_problems(experiment)
    for name in file.models:
        problems += _recipe_problems(experiment, name)
    for number in range(len(file.grid)):
        problems += _size_problems(experiment, number)
    if not problems:
        return experiment
    raise InputError(*(f"{path}: {_cut(problem)}" for problem in problems))


def _parse(path: str, text: str) -> dict[Any, Any]:
    """The file's content: a mapping of reasonable depth and size."""
    try:
        loader = _UniqueKeyLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{path}: not valid YAML: line {line}: the character #x{error.character:04x} cannot "
            "stand in a YAML file"
        ) from error
    try:
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: line {loader.line + 1}: nested too deeply") from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise InputError(f"{path}: an experiment is a mapping with name, datasets, models, grid")
    problem = _excess(content)
    if problem:
        raise InputError(f"{path}: {_cut(problem)}")
    return content


# more than any experiment has; an anchor can name what it stands in, or double what it names
_DEPTH, _VALUES = 20, 100_000


def _excess(content: dict[Any, Any]) -> str | None:
    """A section that is nested too deeply, or that anchors make too large."""
    level: dict[int, tuple[Any, str]] = {id(content): (content, "")}
    levels = []
    for _ in range(_DEPTH):
        below = {
            id(v): (v, key) for value, path in level.values() for v, key in _parts(value, path)
        }
        levels.append(level)
        if not below:
            break
        level = below
    else:
        _, path = next(iter(level.values()))
        return f"{path}: nested more than {_DEPTH} deep"
    sizes: dict[int, int] = {}
    for level in reversed(levels):
        for value, path in level.values():
            sizes[id(value)] = 1 + sum(sizes[id(part)] for part, _ in _parts(value, path))
            if sizes[id(value)] > _VALUES:
                return f"{path or 'the file'}: anchors make more than {_VALUES:,} values of it"
    return None


def _parts(value: Any, path: str) -> list[tuple[Any, str]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [(part, f"{path}.{key}" if path else str(key)) for key, part in items]


def _cut(problem: str) -> str:
    """A message whose value is not a page long."""
    return re.sub(r"(\S{200})\S{100,}", r"\1…", problem)[:1500]


def _drop_own_workers(models: Any) -> None:
    """Takes the models' own numbers of workers out: the command line speaks for all."""
    for model in models.values() if isinstance(models, dict) else ():
        if isinstance(model, dict) and isinstance(model.get("train"), dict):
            model["train"].pop("workers", None)


def _weights(file: ExperimentFile) -> tuple[dict[str, Weights], list[str]]:
    """What the models with pretrained weights start from; the problems with their files."""
    found: dict[str, Weights] = {}
    problems = []
    for name, model in file.models.items():
        if model.from_ is not None or model.backbone is None or model.pretrained is False:
            continue
        if model.pretrained is True:
            found[name] = hub_weights(model.backbone)
            continue
        key = f"models.{name}.pretrained"
        try:
            weights = file_weights(model.pretrained, model.weights_license, model.backbone)
        except (InputError, StorageGoneError) as error:
            if model.weights_sha256 is None:
                problems.append(f"{key}: {error}")
                continue
            # the results of a run stay readable where its weights are not
            weights = Weights(
                source=Storage(model.pretrained).uri,
                license=model.weights_license or UNSTATED,
                sha256=model.weights_sha256,
            )
        if model.weights_sha256 not in (None, weights.sha256):
            problems.append(
                f"{key}: {model.pretrained!r} has the SHA-256 {weights.sha256}, weights_sha256 "
                f"says {model.weights_sha256}; take the right file, or that key out"
            )
        found[name] = weights
    return found, problems


def _pin_weights(content: Any, file: ExperimentFile, weights: dict[str, Weights]) -> bool:
    """Writes into the content which files of weights are meant, wherever it is read again."""
    pinned = False
    for name, known in weights.items():
        if isinstance(file.models[name].pretrained, str):
            content["models"][name]["pretrained"] = known.source
            content["models"][name]["weights_sha256"] = known.sha256
            content["models"][name]["weights_license"] = known.license
            pinned = True
    return pinned


def _assumed(name: str) -> Dataset:
    """A dataset that allows every fraction and multiplier, of no identity."""
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
    return Dataset(Storage("memory://assumed"), manifest)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such experiment file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: not UTF-8: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


# what pydantic calls the forms that a value may have, and what they are
_FORMS = {
    **dict.fromkeys(("DatasetConfig", "str"), "a folder or URI, or a section with uri"),
    **dict.fromkeys(
        ("tuple[float, float]", "Around"),
        "[lowest, highest], a range around the value such as {times: 4} or {plus: 0.1}, or null",
    ),
    "bool": "true, false, or the path of a file of weights",
}


def _explain(error: Any) -> str:
    """One pydantic error as: key path: value: what is wrong, what is allowed."""
    path = ".".join(str(part) for part in error["loc"] if part not in _FORMS)
    if error["type"] == "extra_forbidden":
        where = [part for part in error["loc"] if part not in _FORMS]
        allowed = _allowed_keys(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{path}: unknown key; {hint}allowed are {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{path}: this key is missing"
    if error["type"] == "invalid_key":
        return f"{path}: a key must be text; put it in quotes if it is meant"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = "use letters, digits, '.', '_' and '-' only, a letter or digit first"
        if error["ctx"]["pattern"] == NO_CONTROLS:
            message = "has characters that no path has"
    elif error["type"] in ("model_type", "dict_type"):
        message = "must be a section of keys and values"
    if error["loc"] and error["loc"][-1] in _FORMS:
        known = _FORMS["bool" if path.endswith(".pretrained") else error["loc"][-1]]
        message = f"must be {known}"
    value = "" if isinstance(error["input"], dict | list) else f" {error['input']!r}:"
    return f"{path}:{value} {message}"


_SECTIONS: dict[str, type[BaseModel]] = {
    "datasets": DatasetConfig,
    "models": ModelConfig,
    "grid": GridEntry,
    "search": SearchConfig,
    "train": TrainOptions,
}


def _allowed_keys(where: list[Any]) -> list[str]:
    section = _SECTIONS.get(str(where[0]), ExperimentFile) if where else ExperimentFile
    if where[:1] == ["models"] and where[2:] == ["train"]:
        section = TrainOptions
    if where[:2] == ["search", "space"] and len(where) > 2:
        section = Around
    return [field.alias or name for name, field in section.model_fields.items()]


def nearest(name: str, known: Iterable[str]) -> str:
    """``there are a, b``: all that are known, or of many those that look alike."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3) if len(names) > 8 else names
    if not near:
        near = names[:3] + ["…"]
    return f"there are {', '.join(near)}"


# arguments of timm's that have a place of their own, and where
_PLACES = {
    "drop_path_rate": "set drop_path in recipe",
    "global_pool": "set global_pool in recipe",
    "num_classes": "it is the dataset's number of classes",
    "in_chans": "images are RGB",
    "pretrained": "it is a key of the model",
    "pretrained_cfg": "give a file of weights as pretrained: PATH",
    "pretrained_cfg_overlay": "give a file of weights as pretrained: PATH",
    "checkpoint_path": "give a file of weights as pretrained: PATH",
}

_OF_BACKBONES = (
    "backbone",
    "backbone_args",
    "pretrained",
    "weights_license",
    "weights_sha256",
)


def _model_problems(file: ExperimentFile) -> list[str]:
    problems = []
    for name, model in file.models.items():
        key = f"models.{name}"
        if model.from_ is not None:
            parent = file.models.get(model.from_)
            if parent is None:
                problems.append(
                    f"{key}.from: {model.from_!r} is not a model of this file; "
                    + nearest(model.from_, file.models)
                )
            elif parent.method != "finetune":
                problems.append(
                    f"{key}.from: {model.from_!r} is of method {parent.method}; semi starts from "
                    "a model of method finetune"
                )
            for ignored in _OF_BACKBONES:
                if ignored in model.model_fields_set:
                    problems.append(
                        f"{key}.{ignored}: comes from {model.from_!r}; take this key out"
                    )
        if model.method == "semi" and model.from_ is None:
            problems.append(f"{key}.from: missing; method semi starts from a finetune model")
        if model.method == "finetune" and model.from_ is not None:
            problems.append(f"{key}.from: method finetune starts from a backbone, not a model")
        if model.method == "finetune" and model.backbone is None and model.from_ is None:
            problems.append(f"{key}.backbone: missing; give a timm name such as resnet18.tv_in1k")
        if model.backbone is not None and model.from_ is None:
            problem = backbone_problem(model.backbone, model.pretrained is True)
            if problem:
                problems.append(f"{key}.backbone: {model.backbone!r}: {problem}")
        for name_of, place in _PLACES.items():
            if name_of in model.backbone_args:
                problems.append(f"{key}.backbone_args.{name_of}: take it out: {place}")
        for extra in ("weights_license", "weights_sha256"):
            if extra in model.model_fields_set and not isinstance(model.pretrained, str):
                problems.append(f"{key}.{extra}: only for weights of a file (pretrained: PATH)")
    return problems


def _grid_problems(file: ExperimentFile) -> list[str]:
    problems = []
    seen: set[tuple[str, str, Fraction, Fraction | None]] = set()
    for number, entry in enumerate(file.grid):
        key = f"grid.{number}"
        model = file.models.get(entry.model)
        if model is None:
            problems.append(
                f"{key}.model: {entry.model!r} is not a model of this file; "
                + nearest(entry.model, file.models)
            )
        for name in entry.datasets or []:
            if name not in file.datasets:
                problems.append(
                    f"{key}.datasets: {name!r} is not a dataset of this file; "
                    + nearest(name, file.datasets)
                )
        for fraction in entry.labels:
            if not 0 < fraction <= 1:
                problems.append(
                    f"{key}.labels: {show_percent(fraction)}: a label fraction must be above 0% "
                    "and at most 100%"
                )
        for multiplier in entry.unlabeled or []:
            if multiplier <= 0:
                problems.append(
                    f"{key}.unlabeled: {show_percent(multiplier)}: a multiplier must be above 0%"
                )
        if entry.unlabeled is not None and model is not None and model.method == "finetune":
            problems.append(
                f"{key}.unlabeled: {entry.model!r} is of method finetune, which uses no "
                "unlabelled images; take this key out"
            )
        for name in entry.datasets or file.datasets:
            for fraction in entry.labels:
                for multiplier in entry.unlabeled or [None]:  # type: ignore[list-item]
                    cell = (name, entry.model, fraction, multiplier or Fraction(1))
                    if cell in seen:
                        shown = f"{name}/{entry.model}/{show_percent(fraction)}"
                        problems.append(f"{key}: the cell {shown} stands in the grid twice")
                    seen.add(cell)
    return problems


def _backbone_or_none(file: ExperimentFile, name: str) -> str | None:
    """The backbone that a model will have, or None while its references are wrong."""
    model = file.models.get(name)
    if model is not None and model.from_ is not None:
        model = file.models.get(model.from_)
    return model.backbone if model is not None and model.from_ is None else None


def _recipe_problems(experiment: Experiment, name: str) -> list[str]:
    file = experiment.file
    if _backbone_or_none(file, name) is None:
        return []
    try:
        recipe = experiment.recipe_of(name)
    except ValidationError as error:
        return [_explain_recipe(f"models.{name}.recipe", e) for e in error.errors()]
    workers = experiment.train_of(name).workers
    if recipe.batch_size % workers:
        own = file.models[name].train
        is_own = own is not None and "workers" in own.model_fields_set
        key = f"models.{name}.train" if is_own else "train"
        return [
            f"{key}.workers: {workers}: the global batch of {name} is "
            f"{recipe.batch_size} images, which must divide by the number of workers"
        ]
    return []


def _explain_recipe(key: str, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, Recipe.model_fields, n=3, cutoff=0.4)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        return f"{key}.{where}: unknown key{hint}"
    message = error["msg"].removeprefix("Value error, ")
    shown = f".{where}: {error['input']!r}" if where else ""
    return f"{key}{shown}: {message}"


def _space_problems(experiment: Experiment) -> list[str]:
    file = experiment.file
    searchable = [n for n, f in Recipe.model_fields.items() if f.annotation is float]
    problems: list[str] = []
    for name, space in file.search.space.items():
        methods = {model.method for model in file.models.values()}
        if name not in file.models and name not in get_args(Method):
            allowed = ", ".join((*get_args(Method), *file.models))
            problems.append(f"search.space.{name}: not a method or model; allowed are {allowed}")
            continue
        models = [name] if name in file.models else []
        if name in methods:
            models += [n for n, model in file.models.items() if model.method == name]
        for field, wanted in space.items():
            key = f"search.space.{name}.{field}"
            if field not in searchable:
                allowed = ", ".join(searchable)
                problems.append(f"{key}: cannot be searched; allowed are {allowed}")
            elif wanted is not None and (reason := _unused(experiment, field, models)):
                problems.append(f"{key}: a search of it would change nothing: {reason}")
            elif isinstance(wanted, Around):
                problems += _around_problems(experiment, key, field, wanted, models)
            elif wanted is not None:
                problems += _range_problems(key, field, *wanted)
    return list(dict.fromkeys(problems))


def _unused(experiment: Experiment, field: str, models: list[str]) -> str | None:
    """Why no model that a range is for would use it, None where one does or there is none."""
    reasons = []
    for model in models:
        if _backbone_or_none(experiment.file, model) is None:
            return None  # said elsewhere
        try:
            recipe = experiment.recipe_of(model)
        except ValidationError:
            return None  # said by _recipe_problems
        reasons.append(why_unused(field, recipe, experiment.file.models[model].method))
    return reasons[0] if reasons and all(reasons) else None


def _around_problems(
    experiment: Experiment, key: str, field: str, around: Around, models: list[str]
) -> list[str]:
    if (around.times is None) == (around.plus is None):
        return [f"{key}: give either times or plus, such as {{times: 4}} or {{plus: 0.1}}"]
    problems = []
    for model in models:
        if _backbone_or_none(experiment.file, model) is None:
            continue
        try:
            value = getattr(experiment.recipe_of(model), field)
        except ValidationError:
            continue  # said by _recipe_problems
        low, high = around.range(value)
        if low == high:
            problems.append(f"{key}: times of {low:g} is {low:g}; give plus, or [lowest, highest]")
        problems += _range_problems(f"{key}, around the {value:g} of {model}", field, low, high)
    return problems


def _range_problems(key: str, field: str, low: float, high: float) -> list[str]:
    if low > high:
        return [f"{key}: [{low:g}, {high:g}]: the lower end comes first"]
    problems = []
    for value in (low, high):
        try:
            Recipe(**{field: value})
        except ValidationError as error:
            problems.append(f"{key}: {value:g}: {error.errors()[0]['msg']}")
    return problems


def _size_problems(experiment: Experiment, number: int) -> list[str]:
    """Fractions, multipliers and schedules of a grid entry that its datasets cannot give."""
    entry = experiment.file.grid[number]
    fractions = [f for f in entry.labels if 0 < f <= 1]
    names = entry.datasets or list(experiment.file.datasets)
    problems: list[str] = []
    for name in names:
        if name not in experiment.datasets:
            continue  # it is missing, and was said to be
        manifest = experiment.datasets[name].manifest
        counts = manifest.counts["train"]
        for fraction in fractions:
            empty = empty_classes(fraction, counts)
            if empty:
                smallest = Fraction(1, 2) / max(1, min(counts[c] for c in counts))
                problems.append(
                    f"grid.{number}.labels: {show_percent(fraction)} of {name} leaves "
                    f"{len(empty)} of {len(counts)} classes without an image, the first is "
                    f"{empty[0]!r} with {counts[empty[0]]} training images; "
                    f"{float(smallest) * 100:.3g}% is the least that gives each class one"
                )
        if entry.model in experiment.file.models:
            problems += _pool_problems(experiment, number, name)
            problems += _schedule_problems(experiment, entry.model, name, fractions)
    return problems


def _multipliers(experiment: Experiment, entry: GridEntry) -> list[Fraction]:
    if experiment.file.models[entry.model].method != "semi":
        return []
    return [m for m in entry.unlabeled or [Fraction(1)] if m > 0]


def _pool_problems(experiment: Experiment, number: int, name: str) -> list[str]:
    problems = []
    unit, pool = experiment.pool_unit(name), experiment.datasets[name].manifest.pool
    for multiplier in _multipliers(experiment, experiment.file.grid[number]):
        wanted = pool_subset(unit, multiplier)
        if wanted > pool or wanted == 0:
            problems.append(
                f"grid.{number}.unlabeled: {show_percent(multiplier)} of {name} is "
                f"{wanted:,} images (100% is {unit:,}); its pool has {pool:,}"
            )
    return problems


def _schedule_problems(
    experiment: Experiment, model: str, name: str, fractions: list[Fraction]
) -> list[str]:
    """A warm-up that leaves no training, found by resolving the recipe as the plan will."""
    if _backbone_or_none(experiment.file, model) is None:
        return []
    try:
        recipe = experiment.recipe_of(model)
    except ValidationError:
        return []  # said by _recipe_problems
    method = experiment.file.models[model].method
    pool = max(1, experiment.pool_unit(name))
    try:
        for fraction in fractions:
            images = labeled_images(experiment.datasets[name], fraction)
            resolve(recipe, method, max(1, images), pool)
    except ValueError as error:
        return [f"models.{model}.recipe: {error}"]
    return []


def labeled_images(dataset: Dataset, fraction: Fraction) -> int:
    """How many training images a label fraction takes."""
    counts = dataset.manifest.counts["train"]
    return sum(images_at(fraction, images) for images in counts.values())
