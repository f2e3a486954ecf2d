"""What an experiment file may say: its sections, keys, types and defaults."""

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from semigrid.trainers.evaluation.scores import Metric
from semigrid.trainers.methods import MethodName, find_method
from semigrid.trainers.options import TrainOptions


def _percent(value: Any) -> Fraction:
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", str(value))
    if not match:
        raise ValueError("must be a percentage such as 25%")
    return Fraction(match[1]) / 100


def _fraction(value: Fraction) -> Fraction:
    if not 0 < value <= 1:
        raise ValueError("a label fraction must be above 0% and at most 100%")
    return value


def _multiplier(value: Fraction) -> Fraction:
    if value <= 0:
        raise ValueError("a multiplier must be above 0%")
    return value


def _dataset(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


def _names(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if value is not None and not (names and all(isinstance(name, str) for name in names)):
        raise ValueError("must be the name of a model or, of several, a list such as [vit, probe]")
    return value


LabelFraction = Annotated[Fraction, BeforeValidator(_percent), AfterValidator(_fraction)]
Multiplier = Annotated[Fraction, BeforeValidator(_percent), AfterValidator(_multiplier)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# Trainings beside a cell with a pool that show what of its score is not the pool's doing.
Control = Literal["compute", "labeled-pool"]


def show_percent(value: Fraction) -> str:
    """``Fraction(1, 4)`` as ``25%``."""
    return f"{float(value * 100):.10g}%"


class Section(BaseModel):
    """A mapping of the file: frozen, and without keys that it does not declare."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetConfig(Section):
    """A dataset's folder or URI, and the number of pool images that ``unlabeled: 100%`` means.

    A file may give the URI alone.
    """

    uri: str
    pool_unit: int | None = Field(None, gt=0)


# Keys of a recipe whose values hold for training all weights or for an adapter, not for both.
OF_ADAPTATION = ("optimizer", "base_lr", "layer_decay")
# Keys of ``train`` that hold for all models and cannot be set for one.
SHARED_TRAIN_KEYS = ("precision", "stream")


class ModelConfig(Section):
    """A row of models: a backbone to fine-tune, or the model to start ``from``, for any method.

    Of a method with soft targets, ``from`` has the models that make them, one or several, and the
    backbone is its own.
    ``pretrained`` is true for timm's weights of the backbone's tag, false for random weights, or
    the path or URI of a file. ``weights_license`` is the licence of that file, and
    ``weights_sha256`` the hash that it must have. Keys of ``train`` override the file's ``train``.
    """

    backbone: str | None = None
    from_: Annotated[str | list[str] | None, BeforeValidator(_names)] = Field(None, alias="from")
    method: MethodName
    pretrained: bool | str = True
    weights_license: str | None = None
    weights_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    backbone_args: dict[str, JsonValue] = {}
    recipe: dict[str, Any] = {}
    train: TrainOptions | None = None

    @property
    def parent(self) -> str | None:
        """The model whose winner it starts from; None where it starts from its own backbone."""
        if isinstance(self.from_, str) and not find_method(self.method).soft_targets:
            return self.from_
        return None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The models whose winners make its soft targets."""
        if self.from_ is None or not find_method(self.method).soft_targets:
            return ()
        return (self.from_,) if isinstance(self.from_, str) else tuple(self.from_)


class GridEntry(Section):
    """Cells: one model at label fractions and, with a pool, unlabelled multipliers."""

    model: str
    labels: list[LabelFraction] = Field(min_length=1)
    unlabeled: list[Multiplier] | None = Field(None, min_length=1)
    datasets: list[str] | None = Field(None, min_length=1)


class Around(Section):
    """A range around a value, by default the recipe's: ``{times: 4}``, ``{plus: 0.1}``."""

    around: float | None = None
    times: float | None = Field(None, gt=1, allow_inf_nan=False)
    plus: float | None = Field(None, gt=0, allow_inf_nan=False)

    def range(self, value: float) -> tuple[float, float]:
        """Lowest and highest value around the recipe's ``value``."""
        middle = value if self.around is None else self.around
        if self.times is not None:
            return middle / self.times, middle * self.times
        assert self.plus is not None
        return middle - self.plus, middle + self.plus


# [lowest, highest], a range around a value, or null: not searched
Range = tuple[float, float] | Around | None


class SearchConfig(Section):
    """How many trials a cell gets, and how they are suggested; the first is the recipe itself.

    ``metric`` says which scores on val choose: trials, the weights of each, the winner's best seed,
    and who goes on at a rung.
    ``space`` has ranges by method and by model; a model's come before its method's. With
    ``early_stopping``, one of ``reduction_factor`` trials goes on at each rung. With
    ``warm_start``, a cell's first suggestion is the winner of the next smaller label fraction or,
    at the smallest fraction, of the next smaller pool.
    """

    trials: int = Field(1, gt=0, le=100_000)
    metric: Metric = "balanced"
    wave: int = Field(4, gt=0, le=1000)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    space: dict[str, dict[str, Range]] = {}
    early_stopping: bool = False
    reduction_factor: int = Field(3, ge=2)
    warm_start: bool = False


class ExperimentFile(Section):
    """The file as written; ``load_experiment`` turns it into an ``Experiment``.

    With ``validation: nested``, val shrinks with the label fraction as train does, class by class;
    ``fixed`` is the paper's: the whole of val chooses at every fraction. ``prices`` are per
    device-hour, in any currency, by the device's name in the ledger.

    ``controls`` adds cells beside each cell that learns from a pool: ``compute`` fine-tunes the
    same start on the labelled images alone for as many forwards, ``labeled-pool`` is the same
    training with its own labelled images as the pool. With ``steps_follow_pool`` a training with
    300 % of the pool takes three times the steps, as in the paper; by default it takes those of
    100 %, so that cells differ in their pool only.
    """

    name: Name
    datasets: dict[Name, Annotated[DatasetConfig, BeforeValidator(_dataset)]] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(min_length=1)
    grid: list[GridEntry] = Field(min_length=1)
    search: SearchConfig = SearchConfig()
    validation: Literal["fixed", "nested"] = "fixed"
    seeds: int = Field(1, gt=0, le=1000)
    controls: list[Control] = []
    steps_follow_pool: bool = False
    train: TrainOptions = TrainOptions()
    trackers: list[Literal["optuna", "tensorboard", "mlflow", "wandb"]] = ["optuna", "tensorboard"]
    prices: dict[str, Price] = {}
    storage: str = Field("results", min_length=1)

    def adapts_otherwise(self, model: str, other: str) -> bool:
        """Whether one of two models trains an adapter and the other all weights."""
        full = [self.models[name].recipe.get("adapter") is None for name in (model, other)]
        return full[0] != full[1]

    @property
    def locations(self) -> dict[str, str]:
        """Every path and URI of the file, by its key."""
        pretrained = {f"models.{name}": model.pretrained for name, model in self.models.items()}
        return {
            "storage": self.storage,
            **{f"datasets.{name}": dataset.uri for name, dataset in self.datasets.items()},
            **{f"{key}.pretrained": p for key, p in pretrained.items() if isinstance(p, str)},
        }
