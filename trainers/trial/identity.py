"""A trial's identity: everything that can change its numbers."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from semigrid.data.errors import InputError
from semigrid.trainers.evaluation.scores import Metric
from semigrid.trainers.methods import Method, Stepped, find_method
from semigrid.trainers.methods.recorded import recipe_form
from semigrid.trainers.options import Precision
from semigrid.trainers.recipe import RECIPE_VERSION, Recipe, SteppedRecipe


class TrialSpec(BaseModel):
    """Everything that can change a training's numbers, and nothing that cannot.

    Worker counts, storage and names are not part of it. Two equal specifications are the same
    training.

    Attributes:
        dataset: the dataset's fingerprint.
        labels: label fraction as a ratio, ``1/4``.
        validation: share of each class's val images that choose the weights, as a ratio.
        pool: what unlabelled images there are: the dataset's, or the trial's own labelled ones,
            whose labels the pool does not have.
        pool_images: how many images of the pool are used, from its start; None without a pool.
        weights: what the backbone starts from: ``random``, ``timm`` (by its tag) or ``sha256:...``.
        method_version: the method's own, by default that of the installed one.
        recipe: resolved, with the settings of the method.
        parent: id of the trial whose weights it starts from.
        teachers: ids of the trials whose mean answers are its soft targets, sorted; left out of
            identities where there are none.
        metric: which scores on val choose the weights that it leaves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe_version: int = RECIPE_VERSION
    dataset: str
    labels: str
    pool: Literal["unlabeled", "labeled"] = "unlabeled"
    pool_images: int | None
    backbone: str
    backbone_args: dict[str, Any]
    weights: str
    method: str
    method_version: int
    recipe: SerializeAsAny[Recipe]
    precision: Precision
    seed: int
    parent: str | None
    teachers: tuple[str, ...] = Field((), exclude_if=lambda teachers: not teachers)
    metric: Metric = "balanced"
    validation: str = "1"

    @model_validator(mode="before")
    @classmethod
    def _by_its_method(cls, values: Any) -> Any:
        """The recipe as the method's page declares it, and the version of that page."""
        if not isinstance(values, dict) or not isinstance(values.get("method"), str):
            return values
        method: Method[Any] | None = None
        with contextlib.suppress(InputError):  # what is trained can be used without its method
            method = find_method(values["method"])
        recipe = values.get("recipe")
        if isinstance(recipe, dict):
            form = recipe_form(recipe) if method is None else method.recipe
            recipe = form.model_validate(recipe)
        version = {} if method is None else {"method_version": method.version}
        return version | values | {"recipe": recipe}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy, whose identity differs if the update changes anything."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("id", None)
        return copy

    @property
    def sources(self) -> tuple[str, ...]:
        """Ids of the trials that it cannot do without: its parent, or its teachers."""
        return self.teachers if self.parent is None else (self.parent,)

    @property
    def forwards(self) -> int:
        """Forwards of one image that its steps cost; a backward costs two.

        0 where nobody knows: the package of the method is gone.
        """
        with contextlib.suppress(InputError):
            method = find_method(self.method)
            if isinstance(method, Stepped):
                return method.forwards(self.recipe, self.pool_images is not None)
        return 0

    @property
    def logit_adjustment(self) -> float:
        """τ of log π in its loss; 0 for a method without one."""
        return self.recipe.logit_adjustment if isinstance(self.recipe, SteppedRecipe) else 0.0

    @cached_property  # a plan reads it at every step for every trial
    def id(self) -> str:
        """The trial's identity: the first 20 hexadecimal digits of its canonical JSON's SHA-256."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:20]
