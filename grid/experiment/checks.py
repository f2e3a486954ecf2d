"""Problems that concern several keys of an experiment file, or a key and its dataset."""

from fractions import Fraction
from itertools import product

from pydantic import ValidationError

from semigrid.data.schema import Dataset
from semigrid.data.splits import empty_classes, images_at, pool_subset
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.messages import nearest, recipe_problems
from semigrid.grid.experiment.schema import (
    SHARED_TRAIN_KEYS,
    ExperimentFile,
    GridEntry,
    ModelConfig,
    show_percent,
)
from semigrid.grid.experiment.space import space_problems
from semigrid.trainers.backbones import backbone_problem
from semigrid.trainers.methods import METHODS, resolve
from semigrid.trainers.recipe import Recipe

# Arguments of timm's that other keys or the dataset decide.
_SET_ELSEWHERE = {
    **dict.fromkeys(("drop_path_rate", "global_pool"), "set drop_path and global_pool in recipe"),
    **dict.fromkeys(("num_classes", "in_chans"), "classes and channels are the dataset's"),
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"),
        "weights are the model's key pretrained",
    ),
}
# Keys that a model with ``from`` takes over from the other model.
_OF_BACKBONES = ("backbone", "backbone_args", "pretrained", "weights_license", "weights_sha256")


def labeled_images(dataset: Dataset, fraction: Fraction) -> int:
    """How many training images a label fraction takes."""
    counts = dataset.manifest.counts["train"]
    return sum(images_at(fraction, images) for images in counts.values())


def problems_of(experiment: Experiment) -> list[str]:
    """Every problem of an experiment whose sections are valid each by itself."""
    file = experiment.file
    problems = [p for name in file.models for p in _model_problems(file, name)]
    problems += _grid_problems(file)
    recipes: dict[str, Recipe] = {}
    for name in file.models:
        if _has_backbone(file, name):
            try:
                recipes[name] = experiment.recipe_of(name)
            except ValidationError as error:
                problems += recipe_problems(f"models.{name}.recipe", error)
    problems += space_problems(file, recipes)
    for name, recipe in recipes.items():
        problems += _worker_problems(experiment, name, recipe)
    for number, entry in enumerate(file.grid):
        for name in entry.datasets or file.datasets:
            if name in experiment.datasets:  # else it could not be opened, or is misspelt
                problems += _size_problems(experiment, number, name)
                problems += _schedule_problems(experiment, entry, name, recipes)
    return list(dict.fromkeys(problems))


def _has_backbone(file: ExperimentFile, name: str) -> bool:
    """Whether a model has a backbone, its own or that of the model it comes ``from``."""
    model = file.models[name]
    source = model if model.from_ is None else file.models.get(model.from_)
    return source is not None and source.from_ is None and source.backbone is not None


def _model_problems(file: ExperimentFile, name: str) -> list[str]:
    model, key = file.models[name], f"models.{name}"
    problems = (
        _backbone_problems(key, model) if model.from_ is None else _from_problems(file, key, model)
    )
    problems += [
        f"{key}.backbone_args.{argument}: take it out: {why}"
        for argument, why in _SET_ELSEWHERE.items()
        if argument in model.backbone_args
    ]
    problems += [
        f"{key}.{extra}: only for weights of a file (pretrained: PATH)"
        for extra in ("weights_license", "weights_sha256")
        if extra in model.model_fields_set and not isinstance(model.pretrained, str)
    ]
    problems += [
        f"{key}.train.{shared}: is the same for all models; set it in train"
        for shared in SHARED_TRAIN_KEYS
        if model.train is not None and shared in model.train.model_fields_set
    ]
    return problems


def _backbone_problems(key: str, model: ModelConfig) -> list[str]:
    if parents := METHODS[model.method].parents:
        return [
            f"{key}.from: missing; method {model.method} starts from a {' or '.join(parents)} model"
        ]
    if model.backbone is None:
        return [f"{key}.backbone: missing; give a timm name such as resnet18.tv_in1k"]
    problem = backbone_problem(model.backbone, model.pretrained is True)
    return [f"{key}.backbone: {model.backbone!r}: {problem}"] if problem else []


def _from_problems(file: ExperimentFile, key: str, model: ModelConfig) -> list[str]:
    assert model.from_ is not None
    problems = []
    parent, allowed = file.models.get(model.from_), METHODS[model.method].parents
    if not allowed:
        problems.append(f"{key}.from: method {model.method} starts from a backbone, not a model")
    if parent is None:
        problems.append(
            f"{key}.from: {model.from_!r} is not a model of this file; "
            + nearest(model.from_, file.models)
        )
    elif allowed and parent.method not in allowed:
        problems.append(
            f"{key}.from: {model.from_!r} is of method {parent.method}; {model.method} starts from "
            f"a model of method {' or '.join(allowed)}"
        )
    problems += [
        f"{key}.{ignored}: comes from {model.from_!r}; take this key out"
        for ignored in _OF_BACKBONES
        if ignored in model.model_fields_set
    ]
    return problems


def _grid_problems(file: ExperimentFile) -> list[str]:
    problems = []
    seen: set[tuple[str, str, Fraction, Fraction]] = set()
    for number, entry in enumerate(file.grid):
        key = f"grid.{number}"
        model = file.models.get(entry.model)
        if model is None:
            problems.append(
                f"{key}.model: {entry.model!r} is not a model of this file; "
                + nearest(entry.model, file.models)
            )
        elif entry.unlabeled is not None and not METHODS[model.method].needs_pool:
            problems.append(
                f"{key}.unlabeled: {entry.model!r} is of method {model.method}, which uses "
                "no unlabelled images; take this key out"
            )
        problems += [
            f"{key}.datasets: {name!r} is not a dataset of this file; "
            + nearest(name, file.datasets)
            for name in entry.datasets or []
            if name not in file.datasets
        ]
        names, multipliers = entry.datasets or file.datasets, entry.unlabeled or [Fraction(1)]
        for name, fraction, multiplier in product(names, entry.labels, multipliers):
            cell = (name, entry.model, fraction, multiplier)
            if cell in seen:
                shown = f"{name}/{entry.model}/{show_percent(fraction)}"
                problems.append(f"{key}: the cell {shown} is in the grid twice")
            seen.add(cell)
    return problems


def _worker_problems(experiment: Experiment, name: str, recipe: Recipe) -> list[str]:
    workers = experiment.train_of(name).workers
    if recipe.batch_size % workers == 0:
        return []
    own = experiment.file.models[name].train
    key = f"models.{name}.train" if own and "workers" in own.model_fields_set else "train"
    return [
        f"{key}.workers: {workers}: the global batch of {name} is {recipe.batch_size} images, "
        "which must divide by the number of workers"
    ]


def _size_problems(experiment: Experiment, number: int, name: str) -> list[str]:
    """Label fractions and multipliers of a grid entry that are too small or large for a dataset."""
    entry, manifest = experiment.file.grid[number], experiment.datasets[name].manifest
    counts = manifest.counts["train"]
    problems = []
    for fraction in entry.labels:
        if empty := empty_classes(fraction, counts):
            least = Fraction(1, 2) / max(1, min(counts.values()))
            problems.append(
                f"grid.{number}.labels: {show_percent(fraction)} of {name} leaves "
                f"{len(empty)} of {len(counts)} classes without an image, the first is "
                f"{empty[0]!r} with {counts[empty[0]]} training images; "
                f"{float(least) * 100:.3g}% is the least that gives each class one"
            )
    model = experiment.file.models.get(entry.model)
    if model is None or not METHODS[model.method].needs_pool:
        return problems
    unit = experiment.pool_unit(name)
    for multiplier in entry.unlabeled or [Fraction(1)]:
        if not 0 < pool_subset(unit, multiplier) <= manifest.pool:
            problems.append(
                f"grid.{number}.unlabeled: {show_percent(multiplier)} of {name} is "
                f"{pool_subset(unit, multiplier):,} images (100% is {unit:,}); its pool has "
                f"{manifest.pool:,}"
            )
    return problems


def _schedule_problems(
    experiment: Experiment, entry: GridEntry, name: str, recipes: dict[str, Recipe]
) -> list[str]:
    """A warm-up longer than the training, found by resolving the recipe as the plan does."""
    recipe = recipes.get(entry.model)
    if recipe is None:
        return []
    method, pool = experiment.file.models[entry.model].method, experiment.pool_unit(name)
    try:
        for fraction in entry.labels:
            images = labeled_images(experiment.datasets[name], fraction)
            resolve(recipe, method, max(1, images), max(1, pool))
    except ValueError as error:
        return [f"models.{entry.model}.recipe: {error}"]
    return []
