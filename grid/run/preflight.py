"""Checks that need the models to be built, made before anything is started.

Otherwise every trial of a cell would find a wrong argument or a missing file of weights, one after
the other, on machines that cost money.
"""

from collections.abc import Callable

import torch
from PIL import Image
from torch import nn

from semigrid.data.errors import InputError
from semigrid.data.views.augment import isolated_random, make_view
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.state import StudyState
from semigrid.trainers.loop.stepper import normalizes_over_batch
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.model import start_model


def check_models(study: StudyState, say: Callable[[str], None]) -> bool:
    """Builds each model that will train, with its weights, and shows it an image.

    Returns whether weights were downloaded: an experiment loaded afterwards knows their hashes.

    Args:
        say: receives a message before each step that may take long.

    Raises:
        InputError: with the problems of all models.
    """
    experiment = study.plan.experiment
    to_train: dict[str, Search] = {}  # one search of each model
    for search in study.plan.searches:
        if study.is_wanted(search.name) and study.searches[search.name].stage != "finished":
            to_train.setdefault(search.cell.model, search)
    problems: list[str] = []
    downloaded = False
    for name, search in to_train.items():
        weights = experiment.weights.get(name)
        if weights is not None and weights.sha256 is None:
            say(f"fetching {weights.source}")
            downloaded = True
        problems += [f"models.{name}{problem}" for problem in _problems(study.plan, search)]
    if problems:
        raise InputError(*(f"{experiment.source}: {problem}" for problem in problems))
    return downloaded


def _problems(plan: Plan, search: Search) -> list[str]:
    spec = plan.spec(search, {}, 0, "a parent" if search.parent else None)
    recipe, size = spec.recipe, spec.recipe.img_size
    classes = plan.experiment.datasets[search.cell.dataset].num_classes
    try:
        model = start_model(spec, classes, plan.place(search, "").weights_uri)
    except InputError as error:
        return [f".pretrained: {error}"]
    except Exception as error:  # whatever timm raises, the file's arguments made it
        return [
            f": timm cannot build {spec.backbone} with backbone_args {spec.backbone_args}, "
            f"drop_path {recipe.drop_path:g} and global_pool {recipe.global_pool}: "
            f"{_first_line(error)}; where a model takes none of them, write drop_path: 0 or "
            "global_pool: null in recipe"
        ]
    problems = _parent_problems(plan, search, model, classes)
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, 3, size, size))
        if output.shape != (1, classes):
            problems.append(
                f".backbone_args: {spec.backbone} gives {tuple(output.shape)} for one image, not "
                f"(1, {classes}): one logit for each class of {search.cell.dataset}"
            )
    except Exception as error:
        problems.append(
            f".recipe.img_size: {spec.backbone} refuses images of {size} pixels: "
            f"{_first_line(error)}; set img_size in recipe and, for models that need it, in "
            "backbone_args"
        )
    views = view_settings(recipe, input_statistics(model))
    try:
        with isolated_random():
            make_view(Image.new("RGB", (64, 64)), views, "strong", 0)
    except Exception as error:
        problems.append(
            f".recipe.rand_augment: timm cannot make views with {recipe.rand_augment!r}: "
            f"{type(error).__name__}: {_first_line(error)}; it is written as in "
            "rand-m9-mstd0.5-inc1, or empty for none"
        )
    options = plan.experiment.train_of(search.cell.model)
    if options.micro_batch is not None and normalizes_over_batch(model):
        problems.append(
            f": {spec.backbone} has batch normalisation, whose numbers depend on the images "
            "beside: it cannot train in micro-batches; take train.micro_batch out"
        )
    return problems


def _parent_problems(plan: Plan, search: Search, model: nn.Module, classes: int) -> list[str]:
    """Weights that only one of the model and its parent has, or that differ in shape."""
    if search.parent is None:
        return []
    spec = plan.spec(search.parent, {}, 0, "random weights will do")
    try:
        parent = start_model(spec, classes, None).state_dict()
    except Exception:
        return []  # it is among the parent's problems
    own = model.state_dict()
    differing = [
        name
        for name in sorted({*own, *parent})
        if name not in own or name not in parent or own[name].shape != parent[name].shape
    ]
    if not differing:
        return []
    return [
        f".recipe: it cannot start from {search.parent.cell.model}, whose model has other weights "
        f"({', '.join(differing[:3])}); let global_pool and img_size be the parent's"
    ]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
