"""Problems that concern several keys of an experiment file, or a key and its dataset."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise, product

from pydantic import ValidationError

from semigrid.data.errors import InputError
from semigrid.data.schema import Dataset
from semigrid.data.splits import images_at, pool_subset
from semigrid.grid.experiment.cells import asked_cells, multipliers, teacher_cell
from semigrid.grid.experiment.experiment import Experiment
from semigrid.grid.experiment.messages import nearest, problems_in
from semigrid.grid.experiment.schema import (
    SHARED_TRAIN_KEYS,
    ExperimentFile,
    GridEntry,
    ModelConfig,
    show_percent,
)
from semigrid.grid.experiment.space import lengths_to_try, space_problems
from semigrid.trainers.backbones import backbone_problem
from semigrid.trainers.methods import Fitted, find_method, resolve
from semigrid.trainers.recipe import Recipe, SteppedRecipe

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
    """How many training images a label fraction takes: the number that decides steps.

    ``label_count.labels_used`` has the labels that a cell costs, those of val included.
    """
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
                form = find_method(file.models[name].method).recipe
                problems += problems_in(error, "models", name, "recipe", form=form)
            except InputError as error:
                problems += [f"models.{name}.recipe.{problem}" for problem in error.problems]
    of_space = list(space_problems(file, recipes))
    problems += of_space
    problems += _control_problems(file)
    for number, entry in enumerate(file.grid):
        for name in entry.datasets or file.datasets:
            if name in experiment.datasets:  # else it could not be opened, or is misspelt
                problems += _size_problems(experiment, number, name)
                problems += _schedule_problems(experiment, entry, name, recipes, not of_space)
    return list(dict.fromkeys(problems))


def _has_backbone(file: ExperimentFile, name: str) -> bool:
    """Whether a model has a backbone, its own or that of the model it comes ``from``."""
    model = file.models[name]
    source = model if model.parent is None else file.models.get(model.parent)
    return source is not None and source.parent is None and source.backbone is not None


def _model_problems(file: ExperimentFile, name: str) -> Iterator[str]:
    model, key = file.models[name], f"models.{name}"
    yield from _start_problems(file, key, model)
    for argument, why in _SET_ELSEWHERE.items():
        if argument in model.backbone_args:
            yield f"{key}.backbone_args.{argument}: take it out: {why}"
    for extra in ("weights_license", "weights_sha256"):
        if extra in model.model_fields_set and not isinstance(model.pretrained, str):
            yield f"{key}.{extra}: only for weights of a file (pretrained: PATH)"
    for shared in SHARED_TRAIN_KEYS:
        if model.train is not None and shared in model.train.model_fields_set:
            yield f"{key}.train.{shared}: is the same for all models; set it in train"


def _start_problems(file: ExperimentFile, key: str, model: ModelConfig) -> Iterator[str]:
    """What is wrong with the backbone, or with the model that a model starts from."""
    method, parents = model.method, find_method(model.method).parents
    need = find_method(method).parent
    if find_method(method).soft_targets:
        yield from _teacher_problems(file, key, model)
    elif isinstance(model.from_, list):
        yield (
            f"{key}.from: {model.from_}: method {method} starts from one model: give its name, "
            "without brackets"
        )
        return
    if model.parent is None:
        if need == "required":
            yield f"{key}.from: missing; method {method} starts from a {' or '.join(parents)} model"
        elif model.backbone is None:
            yield (
                f"{key}.backbone: missing; give a timm name such as resnet18.tv_in1k"
                + (", or from: a model to start from" if need == "optional" else "")
            )
        elif problem := backbone_problem(model.backbone, model.pretrained is True):
            yield f"{key}.backbone: {model.backbone!r}: {problem}"
        return
    parent = file.models.get(model.parent)
    if need == "none":
        yield f"{key}.from: method {method} starts from a backbone: give backbone instead"
    elif parent is None:
        yield f"{key}.from: {_unknown('model', model.parent, file.models)}"
    elif parent.method not in parents:
        yield (
            f"{key}.from: {model.from_!r} is of method {parent.method}; {method} starts from "
            f"a model of method {' or '.join(parents)}"
        )
    elif find_method(parent.method).pool == "required":  # parents are trained without a pool
        yield (
            f"{key}.from: {model.from_!r} is of method {parent.method}, which cannot do without "
            "unlabelled images; start from a model that learns from labels alone"
        )
    elif parent.parent is not None:
        yield (
            f"{key}.from: {model.from_!r} starts from {parent.parent!r} itself; start from a model "
            "with a backbone, such as that one"
        )
    for ignored in _OF_BACKBONES:
        if ignored in model.model_fields_set:
            yield f"{key}.{ignored}: comes from {model.from_!r}; take this key out"


def _teacher_problems(file: ExperimentFile, key: str, model: ModelConfig) -> Iterator[str]:
    """What is wrong with the models that make a model's soft targets."""
    if not model.teachers:
        yield (
            f"{key}.from: missing; method {model.method} learns what other models say of the pool: "
            "name one, or a list of them"
        )
    for name in dict.fromkeys(model.teachers):
        if name not in file.models:
            yield f"{key}.from: {_unknown('model', name, file.models)}"
        elif find_method(file.models[name].method).soft_targets:
            yield (
                f"{key}.from: {name!r} is of method {file.models[name].method} and learns from "
                "other models itself; name those"
            )
        elif model.teachers.count(name) > 1:
            yield f"{key}.from: {name!r} is named twice"


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    return f"{name!r} is not a {what} of this file; {nearest(name, known)}"


def _grid_problems(file: ExperimentFile) -> Iterator[str]:
    seen: set[tuple[str, str, Fraction, Fraction | None]] = set()
    for number, entry in enumerate(file.grid):
        key = f"grid.{number}"
        model = file.models.get(entry.model)
        if model is None:
            yield f"{key}.model: {_unknown('model', entry.model, file.models)}"
        elif entry.unlabeled is not None and find_method(model.method).pool == "none":
            yield (
                f"{key}.unlabeled: {entry.model!r} is of method {model.method}, which uses "
                "no unlabelled images; take this key out"
            )
        for name in entry.datasets or []:
            if name not in file.datasets:
                yield f"{key}.datasets: {_unknown('dataset', name, file.datasets)}"
        names = entry.datasets or file.datasets
        asked: list[Fraction | None] = [*(entry.unlabeled or [])] or [None]
        pools = asked if model is None else multipliers(entry, model.method)
        for name, fraction, multiplier in product(names, entry.labels, pools):
            cell = (name, entry.model, fraction, multiplier)
            if cell in seen:
                shown = f"{name}/{entry.model}/{show_percent(fraction)}"
                yield f"{key}: the cell {shown} is in the grid twice"
            seen.add(cell)
    if all(entry.model in file.models for entry in file.grid):
        yield from _teacher_cell_problems(file)


def _teacher_cell_problems(file: ExperimentFile) -> Iterator[str]:
    """Cells whose soft targets no cell of the grid makes."""
    for cell in asked_cells(file):
        for teacher in file.models[cell[1]].teachers:
            if teacher in file.models and teacher != cell[1]:
                try:
                    teacher_cell(file, teacher, cell)
                except LookupError as error:
                    yield (
                        f"models.{cell[1]}.from: {error}; {cell[1]} at {show_percent(cell[2])} "
                        f"learns from that cell: add it to grid, or take {cell[1]} out at this "
                        "label fraction"
                    )


def _has_pool(file: ExperimentFile, name: str) -> bool:
    """Whether any cell of a model has a pool."""
    entries = [entry for entry in file.grid if entry.model == name]
    return any(multipliers(entry, file.models[name].method) != [None] for entry in entries)


def _control_problems(file: ExperimentFile) -> Iterator[str]:
    """Controls of nothing, and controls of trainings whose length is searched."""
    asked = dict.fromkeys(entry.model for entry in file.grid if entry.model in file.models)
    with_pool = [name for name in asked if _has_pool(file, name)]
    if file.controls and not with_pool:
        yield "controls: no model of grid uses unlabelled images; take this key out"
    if "compute" in file.controls:
        for name in with_pool:
            start = file.models.get(file.models[name].parent or "")
            if start is not None and isinstance(find_method(start.method), Fitted):
                yield (
                    f"controls: take compute out: it trains for longer what {name} starts from, "
                    f"and {file.models[name].parent} is of method {start.method}, without steps"
                )
            for key in (name, file.models[name].method):
                if file.search.space.get(key, {}).get("epochs") is not None:
                    yield (
                        f"search.space.{key}.epochs: take it out, or compute out of controls: a "
                        "compute control is as long as the recipe says, not as its best trial"
                    )


def _size_problems(experiment: Experiment, number: int, name: str) -> Iterator[str]:
    """Label fractions and multipliers of a grid entry that do not fit a dataset's size."""
    entry, dataset = experiment.file.grid[number], experiment.datasets[name]
    manifest, fractions = dataset.manifest, sorted(entry.labels)
    for less, more in pairwise(fractions):
        # every class has an image at any fraction
        if less < more and labeled_images(dataset, less) == labeled_images(dataset, more):
            yield (
                f"grid.{number}.labels: {show_percent(less)} and {show_percent(more)} of {name} "
                f"are the same {labeled_images(dataset, less):,} images; leave one of them out"
            )
    model, unit = experiment.file.models.get(entry.model), experiment.pool_unit(name)
    if model is not None:
        for multiplier in filter(None, multipliers(entry, model.method)):
            if not manifest.pool:
                yield (
                    f"grid.{number}: {name} has no unlabelled images, and {entry.model!r} learns "
                    "from some; build it with a pool, or list the other datasets in this entry "
                    "(datasets: [NAME])"
                )
            elif not 0 < pool_subset(unit, multiplier) <= manifest.pool:
                yield (
                    f"grid.{number}.unlabeled: {show_percent(multiplier)} of {name} is "
                    f"{pool_subset(unit, multiplier):,} images (100% is {unit:,}); its pool has "
                    f"{manifest.pool:,}"
                )


def _schedule_problems(
    experiment: Experiment,
    entry: GridEntry,
    name: str,
    recipes: dict[str, Recipe],
    with_search: bool,
) -> Iterator[str]:
    """What is wrong with the resolved recipes of an entry's cells and of those they start from.

    And, ``with_search``, with what their searches may try instead.
    """
    config = experiment.file.models.get(entry.model)
    parent = None if config is None else config.parent
    for model in (entry.model, parent):
        if model not in recipes:
            continue
        method, recipe = experiment.file.models[model].method, recipes[model]
        pools = multipliers(entry, method)
        lengths = lengths_to_try(experiment.file, model, recipe) if with_search else []
        key = f"models.{model}.recipe"
        try:
            for fraction, multiplier in product(entry.labels, pools):
                images = labeled_images(experiment.datasets[name], fraction)
                pool = 0 if multiplier is None else experiment.epoch_pool(name, multiplier)
                resolved = resolve(recipe, method, max(1, images), pool)
                yield from _worker_problems(experiment, model, resolved)
                if "compute" in experiment.file.controls and model != entry.model:
                    yield from _worker_problems(experiment, entry.model, resolved, model)
                elif "compute" in experiment.file.controls and multiplier and parent is None:
                    control, of = experiment.control_recipe(model), find_method(method).control
                    yield from _worker_problems(
                        experiment, model, resolve(control, of, max(1, images), 0), of
                    )
                for tried in lengths:
                    shown = " and ".join(f"{each} {value:g}" for each, value in tried.items())
                    key = f"search.space, {shown} for {model}"
                    resolve(recipe, method, max(1, images), pool, tried=tried)
                key = f"models.{model}.recipe"
        except ValueError as error:
            yield f"{key}: {error}"


def _worker_problems(
    experiment: Experiment, model: str, resolved: Recipe, start: str | None = None
) -> Iterator[str]:
    """Workers of a model that cannot share its batch or, in its control, that of its ``start``."""
    workers = experiment.train_of(model).workers
    if isinstance(resolved, SteppedRecipe) and resolved.batch_size % workers:
        own = experiment.file.models[model].train
        key = f"models.{model}.train" if own and "workers" in own.model_fields_set else "train"
        whose = model if start is None else f"{model}'s compute control, as of {start},"
        yield (
            f"{key}.workers: {workers}: the global batch of {whose} is {resolved.batch_size} "
            "images, which must divide by the number of workers; change it, or recipe.batch_size"
        )
