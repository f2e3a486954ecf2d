"""The methods by name, one page each, and their recipes.

A page says what its method needs, its settings with published values and ranges to search, and how
it turns a step's images into targets. Nothing here imports torch before a step is made: a plan
asks the methods, too.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from semigrid.data.errors import InputError
from semigrid.trainers.backbones import backbone_family
from semigrid.trainers.methods.lengths import ema_decay, fitted_batch, fitted_rate, fitted_steps
from semigrid.trainers.methods.method import Fitted, Method, Space, Stepped
from semigrid.trainers.methods.recorded import Package
from semigrid.trainers.methods.registry import (
    MethodName,
    find_method,
    method_names,
    package_gone,
    package_of,
    who_uses,
)
from semigrid.trainers.recipe import ADAPTER_RATE, PoolRecipe, Recipe, SteppedRecipe

__all__ = [
    "Fitted",
    "Method",
    "MethodName",
    "Package",
    "Space",
    "Stepped",
    "epochs_of",
    "find_method",
    "lengthened",
    "method_names",
    "package_gone",
    "package_of",
    "published",
    "resolve",
    "users_of",
    "who_uses",
    "why_unused",
]

R = TypeVar("R", bound=Recipe)
_OPTIMIZER_OF = {"beta1": "adamw", "beta2": "adamw", "momentum": "sgd"}


def published(method: str, backbone: str, overrides: Mapping[str, Any]) -> Recipe:
    """The published recipe of a method for a backbone, with the user's values over it.

    ``model_fields_set`` of the result are the user's own values: ``resolve`` leaves them alone.

    Args:
        overrides: fields of the method's recipe, and ``preset``: the name of one of the method's
            presets, whose values lie between the published ones and the user's.

    Raises:
        InputError: for a preset that the method does not have for this backbone, and for fields
            that only other methods use.
        pydantic.ValidationError: for a value that cannot be.
    """
    page, own, family = find_method(method), dict(overrides), backbone_family(backbone)
    problems = [
        f"{name}: {others}, and the method is {method}; take this key out"
        for name in own
        if (others := users_of(name, page))
    ]
    if problems:
        raise InputError(*problems)
    values = dict(page.published.get(family, {}))
    if "preset" in own:
        values |= _preset(page, family, own.pop("preset"))
    if own.get("adapter") is not None:  # docs/methods.md §8
        default = {name: field.default for name, field in page.recipe.model_fields.items()}
        full = {**default, **values}
        values |= {"layer_decay": 1.0}
        # the published rate is one of the published optimizer
        if full["optimizer"] == own.get("optimizer", full["optimizer"]) == "adamw":
            values |= {"base_lr": ADAPTER_RATE * full["base_lr"]}
    recipe: Recipe = page.recipe(**{**values, **own})
    return type(recipe).model_construct(_fields_set=set(own), **dict(recipe))


def users_of(setting: str, method: Method[Any]) -> str | None:
    """``only semi uses it``, of a setting that this method does not use and others do."""
    if setting in method.recipe.model_fields:
        return None
    if setting in SteppedRecipe.model_fields:
        return "only methods that train by steps use it"
    return who_uses(setting)


def _preset(method: Method[Any], family: str, name: Any) -> Mapping[str, Any]:
    names = [each for each, (of, _) in method.presets.items() if of == family]
    if name not in names:
        there = f"there is {' or '.join(names)}" if names else "there is none: take the key out"
        raise InputError(
            f"preset: {name!r} is no preset of method {method.name} for a {family}; {there}"
        )
    return method.presets[name][1]


def resolve(
    recipe: R,
    method: str,
    labeled_images: int,
    pool_images: int,
    fit: bool = True,
    tried: Mapping[str, float] | None = None,
) -> R:
    """Derives batch size, learning rate, steps, warm-up and EMA decay from the sets' sizes.

    An epoch is a pass over the labelled set, or over the pool where the method has one (as in
    Semi-ViT). Sets too small for the published batch and epochs get smaller batches and more
    steps, with a learning rate for those (docs/recipes.md); what the user set,
    ``model_fields_set``, stays. A recipe without steps has nothing to derive.

    Args:
        pool_images: 0 without a pool.
        fit: False leaves the published batch and epochs as they are, however small the sets.
        tried: a search's values over the recipe's. Twice its epochs are twice its steps, whether
            these are fitted or not; a learning rate is taken as it is.

    Raises:
        ValueError: for a warm-up that leaves no step to train.
    """
    if not isinstance(recipe, SteppedRecipe):
        return recipe
    given, epochs = recipe.model_fields_set, recipe.epochs
    recipe = recipe.model_copy(update=tried)
    images, ratio = _epoch(recipe, method, labeled_images, pool_images)
    batch, base_lr = recipe.batch_size, recipe.base_lr
    if fit and "batch_size" not in given:
        batch = fitted_batch(batch, images, ratio)
        if "base_lr" not in (*given, *(tried or {})):
            base_lr = fitted_rate(base_lr, recipe.batch_size, batch)
    if recipe.steps is not None:
        steps = recipe.steps
    elif fit and "epochs" not in given:
        steps = fitted_steps(epochs, recipe.batch_size, images, ratio)
        steps = max(1, round(steps * recipe.epochs / epochs))
    else:
        steps = max(1, round(recipe.epochs * images / (batch * ratio)))
    warmup = recipe.warmup_steps
    if warmup is None:
        if recipe.warmup_epochs >= recipe.epochs:
            raise ValueError(
                f"warmup_epochs is {recipe.warmup_epochs:g} of {recipe.epochs:g} epochs: the "
                "learning rate would only rise; warm up less"
            )
        warmup = min(steps - 1, round(steps * recipe.warmup_epochs / recipe.epochs))
    if warmup >= steps:
        raise ValueError(f"warmup_steps is {warmup}, the training has {steps} steps: warm up less")
    decay = ema_decay(steps) if recipe.ema_decay is None else recipe.ema_decay
    return recipe.model_copy(
        update={
            "batch_size": batch,
            "base_lr": base_lr,
            "steps": steps,
            "warmup_steps": warmup,
            "ema_decay": decay,
        }
    )


def epochs_of(recipe: SteppedRecipe, method: str, labeled_images: int, pool_images: int) -> float:
    """Passes of a resolved recipe over the labelled set, or over the pool where there is one."""
    images, ratio = _epoch(recipe, method, labeled_images, pool_images)
    return recipe.total_steps * recipe.batch_size * ratio / images


def _epoch(
    recipe: SteppedRecipe, method: str, labeled_images: int, pool_images: int
) -> tuple[int, int]:
    """Images of an epoch, and how many of them a step takes for each labelled image."""
    if isinstance(recipe, PoolRecipe) and (pool_images or find_method(method).pool == "required"):
        return pool_images, recipe.unlabeled_ratio
    return labeled_images, 1


def lengthened(
    recipe: SteppedRecipe, method: str, labeled_images: int, forwards: int
) -> SteppedRecipe:
    """The recipe with the number of steps that costs ``forwards``, rounded, and one at least.

    It trains without a pool; the warm-up keeps its share of the steps. Raises ``ValueError`` as
    ``resolve`` does.

    Args:
        labeled_images: size of the labelled set.
        forwards: of one image, a backward counting two; see ``Stepped.forwards_per_step``.
    """
    usual = resolve(recipe, method, labeled_images, 0)
    page = find_method(method)
    assert isinstance(page, Stepped)
    steps = max(1, round(forwards / page.forwards_per_step(usual, False)))
    share = recipe.warmup_epochs / recipe.epochs
    if recipe.warmup_steps is not None:
        share = recipe.warmup_steps / usual.total_steps
    warmup = min(steps - 1, round(steps * share))
    return recipe.model_copy(update={"steps": steps, "warmup_steps": warmup})


def why_unused(setting: str, recipe: Recipe) -> str | None:
    """Why a setting changes nothing in the trainings of a recipe; None where it may."""
    if setting not in type(recipe).model_fields:
        return who_uses(setting)
    if not isinstance(recipe, SteppedRecipe):
        return None
    if setting in _OPTIMIZER_OF and recipe.optimizer != _OPTIMIZER_OF[setting]:
        return f"only {_OPTIMIZER_OF[setting]} uses it, the optimizer is {recipe.optimizer}"
    if setting == "warmup_epochs" and recipe.warmup_steps is not None:
        return "warmup_steps is given and stands for it"
    if setting == "epochs" and None not in (recipe.steps, recipe.warmup_steps):
        return "steps and warmup_steps are given and stand for it"
    return None
