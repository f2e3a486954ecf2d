"""Checks that need the models to be built, made before anything is started.

Otherwise every trial of a cell would find a wrong argument or a missing file of weights, one after
the other, on machines that cost money.
"""

import contextlib
import copy
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.layers import PatchEmbed
from torch import nn

from semigrid.data.errors import InputError, RefusedError
from semigrid.data.schema import LABELED_SPLITS, MANIFEST, Dataset
from semigrid.data.views.augment import make_view
from semigrid.grid.study.plan import Plan, Search
from semigrid.grid.study.state import StudyState
from semigrid.trainers.loop.rehearsal import rehearse, rehearsed
from semigrid.trainers.loop.stepper import normalizes_over_batch
from semigrid.trainers.methods import Fitted, find_method, package_gone, package_of
from semigrid.trainers.models.adapter import BypassedError, adapted_layers
from semigrid.trainers.models.create import input_statistics
from semigrid.trainers.models.head import check_head
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import Recipe, SteppedRecipe
from semigrid.trainers.trial.data import view_settings
from semigrid.trainers.trial.identity import TrialSpec
from semigrid.trainers.trial.model import start_model

# Longest forward of one image, in seconds, after which a step of training is tried: some ten times
# as long.
SLOW_FORWARD = 6.0
# Bytes of labelled images that take so long to read that it is said.
MUCH_TO_READ = 2e9
# Copies of a model's weights: one that is shown an image, a step's student, teacher, gradients and
# AdamW's two, and one to spare.
COPIES = 7
# What a rehearsed step keeps for its backward pass, in bytes per pixel of an image: 2,500 for the
# few images of ResNet-50; others keep more.
PIXEL_BYTES = 8192
# The problems of steps that were rehearsed, by what they depend on.
Rehearsals = dict[str, list[str]]


def check_models(study: StudyState, say: Callable[[str], None]) -> bool:
    """Builds each model that will train, with its weights, and takes a small step with it.

    Returns whether weights were downloaded: an experiment loaded afterwards knows their hashes.

    Args:
        say: receives a message before each step that may take long.

    Raises:
        InputError: with the problems of all models.
    """
    experiment = study.plan.experiment
    to_train: dict[str, Search] = {}  # one search of each model
    untrainable: dict[str, list[str]] = {}  # cells by why
    for search in study.plan.searches:
        if not study.is_wanted(search.name) or study.searches[search.name].stage == "finished":
            continue
        if (why := package_gone(study.plan.method(search.cell))) is None:
            to_train.setdefault(search.cell.model, search)
        elif study.trainings_left(search.name):
            untrainable.setdefault(why, []).append(search.name)
    problems = [
        f"{why}, or leave out by --only what it would train: {', '.join(cells)}"
        for why, cells in untrainable.items()
    ]
    problems += _damaged_datasets(study, say)
    rehearsals: Rehearsals = {}
    downloaded = False
    for name, search in to_train.items():
        weights = experiment.weights.get(name)
        if weights is not None and weights.sha256 is None:
            say(f"fetching {weights.source}")
            downloaded = True
        found = _problems(study.plan, search, rehearsals, say)
        problems += [f"models.{name}{problem}" for problem in found]
        gc.collect()  # a training refers to itself: its weights would stay beside the next one's
    if problems:
        raise InputError(*(f"{experiment.source}: {problem}" for problem in problems))
    return downloaded


def _damaged_datasets(study: StudyState, say: Callable[[str], None]) -> list[str]:
    """Labelled shards that are not those of their dataset; a pool's are checked when it is read."""
    experiment, problems = study.plan.experiment, []
    wanted = [state for name, state in study.searches.items() if study.is_wanted(name)]
    for name in dict.fromkeys(state.search.cell.dataset for state in wanted):
        dataset = experiment.datasets[name]
        try:
            if (size := _labeled_bytes(dataset)) > MUCH_TO_READ:
                say(
                    f"datasets.{name}: comparing {size / 1e9:,.0f} GB of labelled images with "
                    f"{MANIFEST} (each machine reads them once)"
                )
            for split in LABELED_SPLITS:
                dataset.check(split)
        except InputError as error:
            problems.append(f"datasets.{name}: {error}")
    return problems


def _labeled_bytes(dataset: Dataset) -> int:
    sizes: dict[str, int] = {}
    with contextlib.suppress(RefusedError):  # shards may be read where they may not be listed
        sizes = dataset.storage.sizes()
    shards = [shard for split in LABELED_SPLITS for shard in dataset.manifest.shards_of(split)]
    return sum(sizes.get(shard.file, 0) for shard in shards)


def _problems(
    plan: Plan, search: Search, rehearsals: Rehearsals, say: Callable[[str], None]
) -> list[str]:
    spec = plan.spec(search, {}, 0, "a parent" if search.parent else None)
    recipe, size = spec.recipe, spec.recipe.img_size
    classes = plan.experiment.datasets[search.cell.dataset].num_classes
    try:
        model = start_model(spec, classes, plan.place(search, "").weights_uri)
    except InputError as error:
        return [f".pretrained: {error}"]
    except Exception as error:  # whatever timm raises, the file's arguments made it
        return [
            f": timm cannot build {spec.backbone} for images of {size} pixels with backbone_args "
            f"{spec.backbone_args} and {_of_model(recipe)}: {_first_line(error)}; choose an "
            "img_size that it takes, and where it takes no drop path or pooling, write drop_path: "
            "0 or global_pool: null in recipe"
        ]
    problems = _parent_problems(plan, search, model, classes)
    options = plan.experiment.train_of(search.cell.model)
    if isinstance(recipe, SteppedRecipe):
        problems += _setting_problems(spec, recipe, model, options)
    seconds = 0.0
    weights = sum(w.numel() * w.element_size() for w in model.parameters())
    fits = COPIES * weights + PIXEL_BYTES * size**2 < free_memory()
    fresh = copy.deepcopy(model) if fits else None  # a forward may change a model for good
    problems += _border_problems(spec, model)
    try:
        started = time.monotonic()
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, 3, size, size))
        seconds = time.monotonic() - started
        if output.shape != (1, classes):
            problems.append(
                f".backbone_args: {spec.backbone} gives {tuple(output.shape)} for one image, not "
                f"(1, {classes}): one logit for each class of {search.cell.dataset}"
            )
    except Exception as error:
        own: Any = model.pretrained_cfg
        remedy = f"choose one that it takes, such as {own['input_size'][-1]}"
        if "img_size" in spec.backbone_args:
            remedy = "take img_size out of backbone_args"
        problems.append(
            f".recipe.img_size: {spec.backbone} refuses images of {size} pixels: "
            f"{_first_line(error)}; {remedy}"
        )
    if not problems and isinstance(find_method(spec.method), Fitted):
        try:
            check_head(model, size)
        except InputError as error:
            problems.append(f".backbone: {spec.backbone}: {error}")
    if problems or not isinstance(recipe, SteppedRecipe):
        return problems
    if fresh is None or seconds > SLOW_FORWARD:
        say(
            f"models.{search.cell.model}: no step of training was tried: {spec.backbone} is too "
            "large for this machine"
        )
        return []
    few = rehearsed(recipe, spec.method, options.workers)
    with_pool = spec.pool_images is not None
    key = f"{spec.backbone} {spec.backbone_args} {spec.method} {with_pool} {classes} {few}"
    if key not in rehearsals:
        rehearsals[key] = _step_problems(spec, fresh.train(), few, classes, options.workers)
    return rehearsals[key]


def _of_model(recipe: Recipe) -> str:
    """The settings that timm builds a model by."""
    if isinstance(recipe, SteppedRecipe):
        return f"drop_path {recipe.drop_path:g} and global_pool {recipe.global_pool}"
    return f"global_pool {recipe.global_pool}"


def _setting_problems(
    spec: TrialSpec, recipe: SteppedRecipe, model: nn.Module, options: TrainOptions
) -> list[str]:
    """What is wrong with the adapter, the views and the micro-batches of steps."""
    problems = []
    if recipe.adapter is not None:
        try:
            adapted_layers(model, recipe.adapter)
        except InputError as error:
            problems.append(f".recipe.adapter: {spec.backbone}: {error}")
    views = view_settings(recipe, input_statistics(model))
    try:
        make_view(Image.new("RGB", (64, 64)), views, "strong", 0)
    except Exception as error:
        problems.append(
            f".recipe.rand_augment: timm cannot make views with {recipe.rand_augment!r}: "
            f"{type(error).__name__}: {_first_line(error)}; it is written as in "
            "rand-m9-mstd0.5-inc1, or empty for none"
        )
    normalizes = recipe.adapter is None and normalizes_over_batch(model)
    if options.micro_batch is not None and normalizes:
        problems.append(
            f": {spec.backbone} has batch normalisation, whose numbers depend on the images "
            "beside: it cannot train in micro-batches; take train.micro_batch out"
        )
    return problems


def _border_problems(spec: TrialSpec, model: nn.Module) -> list[str]:
    """A size that is no multiple of a ViT's patch: it would never see the rest."""
    patches, size = getattr(model, "patch_embed", None), spec.recipe.img_size
    if not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
        return []
    patch = patches.patch_size[0]
    if not (rest := size % patch):
        return []
    sizes = f"{size - rest} or {size - rest + patch}" if size > patch else str(patch)
    return [
        f".recipe.img_size: {size} is no multiple of {patch}, the side of a patch of "
        f"{spec.backbone}: it would not see the last {rest} rows and columns of an image; choose "
        f"{sizes}"
    ]


def _step_problems(
    spec: TrialSpec, model: nn.Module, recipe: SteppedRecipe, classes: int, workers: int
) -> list[str]:
    """What a step of training finds: a batch of one image, weights that change their shape.

    Also a method that cannot be evaluated, or of which no checkpoint can be made.
    """
    views = view_settings(recipe, input_statistics(model))
    try:
        rehearse(model, recipe, spec.method, views, classes, spec.pool_images is not None)
    except BypassedError as error:
        return [f".recipe.adapter: {spec.backbone}: {error}"]
    except InputError as error:  # of the method
        return [f": {problem}" for problem in error.problems]
    except Exception as error:  # whatever the model's own code does, and the method's
        what = "choose another backbone, backbone_args or img_size"
        if recipe.adapter is None and normalizes_over_batch(model) and recipe.batch_size == 1:
            what = "batch normalisation needs several images: give a larger recipe.batch_size"
            what += " or fewer train.workers" if workers > 1 else ""
        if (package := package_of(spec.method)) is not None:
            what = f"mend method {spec.method} of the package {package.name}, or {what}"
        images = "one image" if recipe.batch_size == 1 else f"{recipe.batch_size} images"
        return [
            f": {spec.backbone} fails in a step of {spec.method} on {images} of {views.img_size} "
            f"pixels: {type(error).__name__}: {_first_line(error)}; {what}"
        ]
    return []


def free_memory() -> float:
    """Bytes of memory that this process may still take, of the machine or of its container."""
    free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        free = min(free, float(limit[0]) - float(used[0]))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


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
