"""Recipes: the hyper-parameters that all methods share, those of methods that take steps, and those
of methods with a pool.

A page in ``methods`` extends them with what is its own. Defaults are published values.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

# Part of every trial's identity; raise it when the same recipe gives other numbers than before.
RECIPE_VERSION = 7

# timm's syntax, without its other sets of operations, which data.views.pixels does not have
RAND_AUGMENT = re.compile(r"rand(-((mstd|p)\d+(\.\d+)?|(mmax|inc|m|n)\d+))+")

Probability = Annotated[float, Field(ge=0, le=1)]


class Adapter(BaseModel):
    """Low-rank additions to layers of a frozen backbone, which are trained with the head (LoRA).

    ``targets`` are ends of layers' names; None stands for the backbone's ``qkv``, an empty list for
    no layer: the head alone is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["lora"]
    rank: int = Field(8, gt=0, le=1024)
    alpha: float = Field(16, gt=0, description="B·A counts alpha / rank times")
    dropout: float = Field(0, ge=0, lt=1, description="of what enters A")
    targets: tuple[Annotated[str, Field(min_length=1)], ...] | None = None


# What an adapter learns at with AdamW, as a multiple of the base learning rate of full fine-tuning.
ADAPTER_RATE = 10


class Recipe(BaseModel):
    """What the recipes of all methods have: the model and the images that it is shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    img_size: int = Field(224, gt=0, le=10**4)
    global_pool: str | None = "avg"


class SteppedRecipe(Recipe):
    """What methods that take steps have; the defaults are those of ViT-B (MAE), fine-tuned.

    ``steps``, ``ema_decay`` and ``warmup_steps`` are ``None`` until ``resolve`` derives them, from
    ``epochs`` and ``batch_size`` as published for large sets.
    """

    # optimiser and schedule
    optimizer: Literal["adamw", "sgd"] = "adamw"
    base_lr: float = Field(5e-4, gt=0, description="learning rate per 256 labelled images")
    weight_decay: float = Field(0.05, ge=0)
    decay_one_dimensional: bool = Field(False, description="weight decay of norms and biases too")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov's, for sgd")
    layer_decay: float = Field(0.65, gt=0, le=1)
    min_lr: float = Field(1e-6, ge=0)
    epochs: float = Field(
        100, gt=0, le=1e6, description="passes over the labelled set, or over the pool"
    )
    warmup_epochs: float = Field(5, ge=0, le=1e6)
    steps: int | None = Field(
        None, gt=0, le=10**9, description="number of steps, instead of epochs"
    )
    warmup_steps: int | None = Field(None, ge=0, le=10**9)
    batch_size: int = Field(
        1024, gt=0, le=10**6, description="labelled images per step, all workers"
    )
    ema_decay: float | None = Field(None, ge=0, lt=1)
    # model
    drop_path: float = Field(0.1, ge=0, lt=1)
    head_std: float | None = Field(2e-5, gt=0)
    # left out of identities where there is none
    adapter: Adapter | None = Field(
        None, exclude_if=lambda adapter: adapter is None, description="instead of all weights"
    )
    # loss
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    # left out of identities where it is off
    logit_adjustment: float = Field(
        0.0, ge=0, le=10, exclude_if=lambda tau: tau == 0, description="τ of log π in the loss"
    )
    # views
    crop_scale: tuple[float, float] = (0.08, 1.0)
    hflip: Probability = 0.5
    color_jitter: float = Field(0.4, ge=0)
    rand_augment: str = "rand-m9-mstd0.5-inc1"
    erase_prob: Probability = 0.25
    # evaluation
    evaluations: int = Field(10, gt=0, le=10**5, description="evaluations on val, evenly spaced")

    @field_validator("crop_scale", "weak_crop_scale", check_fields=False)
    @classmethod
    def _is_a_range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        low, high = value
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"{info.field_name} must be a range within (0, 1], got [{low}, {high}]"
            )
        return value

    @field_validator("rand_augment")
    @classmethod
    def _timm_understands(cls, value: str) -> str:
        if value and not RAND_AUGMENT.fullmatch(value):  # timm skips parts that it does not know
            raise ValueError(
                "is written as in rand-m9-mstd0.5-inc1 (parts m, n, p, mstd, mmax, inc, each "
                "with a number), or empty for none"
            )
        return value

    @property
    def total_steps(self) -> int:
        if self.steps is None:
            raise ValueError("the recipe is not resolved")
        return self.steps

    @property
    def evaluation_steps(self) -> list[int]:
        """The steps after which val is evaluated: evenly spaced, the last one included."""
        count = min(self.evaluations, self.total_steps)
        return [round((i + 1) * self.total_steps / count) for i in range(count)]

    @property
    def learning_rate(self) -> float:
        """lr = base · batch/256 (Goyal et al. 2017, as MAE and Semi-ViT use it)."""
        return self.base_lr * self.batch_size / 256


class PoolRecipe(SteppedRecipe):
    """What the recipes of methods with a pool have besides."""

    weak_crop_scale: tuple[float, float] = (0.08, 1.0)
    unlabeled_ratio: int = Field(
        5, gt=0, le=10**4, description="unlabelled images per labelled one, μ"
    )

    @property
    def pool_batch_size(self) -> int:
        """μB, the unlabelled images of a step over all workers."""
        return self.batch_size * self.unlabeled_ratio


def floats_of(recipe: type[Recipe]) -> list[str]:
    """The fields that a search can vary."""
    return [name for name, field in recipe.model_fields.items() if field.annotation is float]
