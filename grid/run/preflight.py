"""What can only be known by building the models: asked before anything is started.

A wrong argument or a missing file of weights would else be found by every trial of a cell, one
after the other, on machines that cost money.
"""

from collections.abc import Callable
from typing import Any

from semigrid.data.errors import InputError
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.state import StudyState
from semigrid.trainers.recipe import Recipe
from semigrid.trainers.trial import TrialSpec
from semigrid.trainers.trial_data import view_settings
from semigrid.trainers.trial_model import start_model

Say = Callable[[str], None]


def check_models(study: StudyState, say: Say) -> bool:
    """Builds each model that is to train, with its weights, and shows it an image.

    Returns whether weights were downloaded: an experiment loaded afterwards knows their hashes.

    Args:
        say: is told what may take long.

    Raises:
        InputError: with the problems of all models.
    """
    plan = study.plan
    problems: list[str] = []
    downloaded = False
    for name, search in _to_train(study).items():
        weights = plan.experiment.weights.get(name)
        if weights is not None and weights.sha256 is None:
            say(f"fetching {weights.source}")
            downloaded = True
        problems += [f"models.{name}{problem}" for problem in _problems(plan, search)]
    if problems:
        source = plan.experiment.source
        raise InputError(*(f"{source}: {problem}" for problem in problems))
    return downloaded


def _to_train(study: StudyState) -> dict[str, Search]:
    """One search of each model that has something left to do."""
    found: dict[str, Search] = {}
    for search in study.plan.searches:
        if study.is_wanted(search.name) and study.searches[search.name].stage != "finished":
            found.setdefault(search.cell.model, search)
    return found


def _problems(plan: Plan, search: Search) -> list[str]:
    import torch

    from semigrid.trainers.models import input_statistics
    from semigrid.trainers.stepper import normalizes_over_batch

    spec = plan.spec(search, {}, 0, "a parent" if search.parent else None)
    size = spec.recipe.img_size
    classes = plan.experiment.datasets[search.cell.dataset].num_classes
    try:
        model = start_model(spec, classes, plan.place(search, "").weights_uri)
    except InputError as error:
        return [f".pretrained: {error}"]
    except Exception as error:  # whatever timm raises, the file's arguments made it
        return [
            f": timm cannot build {spec.backbone} with backbone_args {spec.backbone_args}, "
            f"drop_path {spec.recipe.drop_path:g} and global_pool {spec.recipe.global_pool}: "
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
    problems += _view_problems(spec.recipe, input_statistics(model))
    micro_batch = plan.experiment.train_of(search.cell.model).micro_batch
    problems += _batch_problems(spec, micro_batch, normalizes_over_batch(model))
    return problems


def _parent_problems(plan: Plan, search: Search, model: Any, classes: int) -> list[str]:
    """Weights that the parent's model has and this one has not, or in other shapes."""
    if search.parent is None:
        return []
    spec = plan.spec(search.parent, {}, 0, "random weights will do")
    try:
        parent = start_model(spec, classes, None).state_dict()
    except Exception:
        return []  # said of the parent
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


def _view_problems(recipe: Recipe, statistics: Any) -> list[str]:
    from PIL import Image

    from semigrid.data.views.augment import isolated_random, make_view

    try:
        with isolated_random():
            make_view(Image.new("RGB", (64, 64)), view_settings(recipe, statistics), "strong", 0)
    except Exception as error:
        return [
            f".recipe.rand_augment: timm cannot make views with {recipe.rand_augment!r}: "
            f"{type(error).__name__}: {_first_line(error)}; it is written as in "
            "rand-m9-mstd0.5-inc1, or empty for none"
        ]
    return []


def _batch_problems(spec: TrialSpec, micro_batch: int | None, batch_norm: bool) -> list[str]:
    if batch_norm and micro_batch is not None:
        return [
            f": {spec.backbone} has batch normalisation, whose numbers depend on the images "
            "beside: it cannot train in micro-batches; take train.micro_batch out"
        ]
    return []


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
