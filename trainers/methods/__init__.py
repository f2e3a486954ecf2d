"""The methods by name, one page each, and their recipes.

A page says what its method needs, its published recipe, its search space, and how it turns a
step's images into targets. Nothing here imports torch before a step is made: a plan asks the
methods, too.
"""

from typing import Any

from semigrid.trainers.backbones import backbone_family
from semigrid.trainers.methods.finetune import FINETUNE
from semigrid.trainers.methods.method import Method, MethodName, Space
from semigrid.trainers.methods.semi import SEMI
from semigrid.trainers.recipe import Recipe, ema_decay

__all__ = ["METHODS", "Method", "MethodName", "Space", "published", "resolve", "why_unused"]

METHODS: dict[MethodName, Method] = {method.name: method for method in (FINETUNE, SEMI)}

_OPTIMIZER_OF = {"beta1": "adamw", "beta2": "adamw", "momentum": "sgd"}


def published(method: MethodName, backbone: str, overrides: dict[str, Any]) -> Recipe:
    """The published recipe of a method for a backbone, with the user's values over it."""
    return Recipe(**{**METHODS[method].published[backbone_family(backbone)], **overrides})


def resolve(recipe: Recipe, method: MethodName, labeled_images: int, pool_images: int) -> Recipe:
    """Derives the number of steps, the warm-up and the EMA decay from the sets' sizes.

    An epoch is a pass over the labelled set, or over the pool for methods that need one (as in
    Semi-ViT). Raises ``ValueError`` for a warm-up that leaves no step to train.
    """
    if METHODS[method].needs_pool:
        steps_per_epoch = pool_images / recipe.pool_batch_size
    else:
        steps_per_epoch = labeled_images / recipe.batch_size
    steps = recipe.steps or max(1, round(recipe.epochs * steps_per_epoch))
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
    return recipe.model_copy(update={"steps": steps, "warmup_steps": warmup, "ema_decay": decay})


def why_unused(setting: str, recipe: Recipe, method: MethodName) -> str | None:
    """Why a field of a recipe changes nothing in its trainings; None where it may."""
    owners = [name for name, each in METHODS.items() if setting in each.own_settings]
    if owners and method not in owners:
        return f"only {' and '.join(owners)} uses it"
    if setting in _OPTIMIZER_OF and recipe.optimizer != _OPTIMIZER_OF[setting]:
        return f"only {_OPTIMIZER_OF[setting]} uses it, the optimizer is {recipe.optimizer}"
    if setting == "warmup_epochs" and recipe.warmup_steps is not None:
        return "warmup_steps is given and stands for it"
    if setting == "epochs" and None not in (recipe.steps, recipe.warmup_steps):
        return "steps and warmup_steps are given and stand for it"
    return None
