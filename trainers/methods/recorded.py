"""Methods whose package is gone: what a run wrote down of them, so that its results stay readable.

Cells, scores and weights need no code of a method, but a plan asks it for defaults, ranges and
costs. A run keeps the answers of its methods from packages; a stand-in gives them again, and trains
nothing.
"""

import copy
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NoReturn, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from semigrid.data.errors import InputError
from semigrid.data.plausible import Number, first_problem
from semigrid.data.storage import Storage
from semigrid.data.storage.files import UnusableFileError
from semigrid.trainers.backbones import Family
from semigrid.trainers.methods.method import Need, Space, Stepped
from semigrid.trainers.recipe import PoolRecipe, Recipe, SteppedRecipe

_LENGTHS = ("steps", "warmup_steps")


class Package(BaseModel):
    """The package that brings a method.

    Attributes:
        module: the top-level module of the method.
        pip: what ``pip install`` takes for the same package on another machine; None if it was
            installed from a folder or file of its own.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    version: str
    module: str
    pip: str | None

    @property
    def remedy(self) -> str:
        """What to do where it is not installed."""
        if self.pip is None:
            return "install it again from where it was (pip install FOLDER)"
        return f"pip install {shlex.quote(self.pip)}"


# The recorded methods of a run, in its folder.
METHODS_FILE = "methods.json"
# Longest such file, in bytes: a search has a few hundred.
MOST_BYTES = 64 * 2**20


class RecordedMethod(BaseModel):
    """What is known of a method without its code.

    Attributes:
        defaults: those of its recipe's fields; ``floats`` are the fields that are numbers.
        forwards: ``Stepped.forwards_per_step`` by ``_forwards_key``.
        spaces: ``Method.search_space`` by ``_space_key``.
    """

    package: Package
    name: str
    version: int
    summary: str
    pool: Need
    parent: Need
    parents: tuple[str, ...]
    soft_targets: bool = False
    control: str
    published: dict[Family, dict[str, Any]]
    presets: dict[str, tuple[Family, dict[str, Any]]]
    defaults: dict[str, Any]
    floats: list[str]
    forwards: dict[str, int] = Field(default_factory=dict)
    spaces: dict[str, dict[str, tuple[Number, Number]]] = Field(default_factory=dict)

    @staticmethod
    def of(
        method: Stepped[Any],
        package: Package,
        varied: Iterable[Recipe],
        resolved: Iterable[SteppedRecipe],
    ) -> "RecordedMethod":
        """A method's answers for the recipes of a plan.

        Args:
            varied: recipes that are searched around.
            resolved: recipes of trainings.
        """
        kept = ("name", "version", "summary", "pool", "parent", "parents", "soft_targets",
                "control", "published", "presets")  # fmt: skip
        fields = method.recipe.model_fields
        return RecordedMethod(
            package=package,
            **{name: getattr(method, name) for name in kept},
            defaults=method.recipe.model_construct().model_dump(mode="json"),
            floats=[name for name, each in fields.items() if float in _types(each.annotation)],
            forwards={
                _forwards_key(recipe, with_pool): method.forwards_per_step(recipe, with_pool)
                for recipe in resolved
                for with_pool in {method.pool != "none", False}
            },
            spaces={_space_key(recipe): method.search_space(recipe) for recipe in varied},
        )

    @field_validator("defaults")
    @classmethod
    def _are_settings(cls, values: dict[str, Any]) -> dict[str, Any]:
        form = recipe_form(values)
        for name in values:
            if name not in form.model_fields and (
                hasattr(form, name) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)
            ):
                raise ValueError(f"{name!r} cannot be a setting of a method")
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            self.stand_in()
        except TypeError as error:
            raise ValueError(str(error)) from error
        return self

    def stand_in(self) -> Stepped[Any]:
        """The method as far as it is known. Raises ``InputError`` where it is asked for more."""

        def space(recipe: Recipe) -> Space:
            return dict(self._known(self.spaces.get(_space_key(recipe))))

        def forwards(recipe: SteppedRecipe, with_pool: bool) -> int:
            return int(self._known(self.forwards.get(_forwards_key(recipe, with_pool))))

        return Stepped(
            name=self.name,
            version=self.version,
            summary=self.summary,
            pool=self.pool,
            parent=self.parent,
            parents=self.parents,
            soft_targets=self.soft_targets,
            control=self.control,
            published=self.published,
            presets=self.presets,
            recipe=self._recipe(),
            search_space=space,
            forwards_per_step=forwards,
            step_targets=self._refuse,
        )

    @property
    def problem(self) -> str:
        """That the package is gone, and what to do."""
        return (
            f"method {self.name}: its package {self.package.name} {self.package.version} is not "
            f"installed; {self.package.remedy}"
        )

    def _known(self, answer: Any) -> Any:
        return self._refuse() if answer is None else answer

    def _refuse(self, *asked: Any) -> NoReturn:
        raise InputError(self.problem)

    def _recipe(self) -> type[SteppedRecipe]:
        base = recipe_form(self.defaults)
        fields: dict[str, Any] = {}
        for name, default in self.defaults.items():
            known = base.model_fields.get(name)
            if known is None:
                number = Annotated[Any, BeforeValidator(_as_float)]
                fields[name] = (number if name in self.floats else Any, default)
            elif known.default != default:
                changed = copy.copy(known)
                changed.default, changed.validate_default = default, True
                fields[name] = (known.annotation, changed)
        return create_model(f"Recipe of {self.name}", __base__=base, **fields)


def recipe_form(values: Any) -> type[SteppedRecipe]:
    """A form that takes the recipe of any method that takes steps, as a record has it."""
    return _AnyPoolRecipe if "unlabeled_ratio" in values else _AnyRecipe


class _AnyRecipe(SteppedRecipe, extra="allow"):
    pass


class _AnyPoolRecipe(PoolRecipe, extra="allow"):
    pass


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def _types(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", (annotation,))


def _space_key(recipe: Recipe) -> str:
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True)


def _forwards_key(recipe: SteppedRecipe, with_pool: bool) -> str:
    """Of what the cost of a step may depend on: neither its rates nor the number of steps."""
    values = recipe.model_dump(mode="json", exclude=set(_LENGTHS))
    kept = {name: value for name, value in values.items() if type(value) is not float}
    return json.dumps([with_pool, kept], sort_keys=True)


class _Recorded(BaseModel):
    methods: list[RecordedMethod]


def read_methods(folder: Storage) -> list[RecordedMethod]:
    """The methods that the runs in a folder wrote down; none where there is no such file.

    Raises ``InputError`` for a damaged file.
    """
    try:
        return _Recorded.model_validate_json(folder.read(METHODS_FILE, MOST_BYTES)).methods
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (ValidationError, UnusableFileError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        raise InputError(
            f"{folder.location(METHODS_FILE)}: cannot be read ({why}); delete it: the next run "
            "with the packages of all methods writes it again"
        ) from error


def write_methods(folder: Storage, methods: Sequence[RecordedMethod]) -> None:
    folder.write(METHODS_FILE, _Recorded(methods=list(methods)).model_dump_json(indent=1).encode())
