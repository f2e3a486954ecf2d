"""Problems in sentences: pydantic's errors by the key's path, and hints at near names."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from semigrid.grid.experiment.schema import (
    Around,
    DatasetConfig,
    ExperimentFile,
    GridEntry,
    ModelConfig,
    SearchConfig,
)
from semigrid.trainers.options import TrainOptions
from semigrid.trainers.recipe import Adapter

# Forms of a value as pydantic's paths name them, and what each key with several forms accepts.
_RANGE = "[lowest, highest], a range around the value such as {times: 4} or {plus: 0.1}, or null"
_PRETRAINED = "true, false, or the path of a file of weights"
_FORMS = {
    "tuple[float, float]": _RANGE,
    "Around": _RANGE,
    "bool": _PRETRAINED,
    "str": _PRETRAINED,
}
# What stands at a path, without the names that the file chooses; anything else is a range.
_SECTIONS: dict[str, type[BaseModel]] = {
    "": ExperimentFile,
    "datasets": DatasetConfig,
    "models": ModelConfig,
    "models.train": TrainOptions,
    "grid": GridEntry,
    "search": SearchConfig,
    "train": TrainOptions,
}


def nearest(name: str, known: Iterable[str]) -> str:
    """``there are a, b``: all known names or, of many, those that look alike."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3) if len(names) > 8 else names
    return f"there are {', '.join(near or [*names[:3], '…'])}"


def problems_in(
    error: ValidationError, *section: str, form: type[BaseModel] | None = None
) -> list[str]:
    """One sentence per problem of a file: key path, value, what is wrong, what is allowed.

    Args:
        section: path of the section that was validated; none for the whole file.
        form: what stands there, if that depends on the file.
    """
    # pydantic reports a value with several forms once per form
    return list(dict.fromkeys(_problem(section, form, details) for details in error.errors()))


def _problem(section: Sequence[str], form: type[BaseModel] | None, error: ErrorDetails) -> str:
    where = [*section, *(part for part in error["loc"] if part not in _FORMS)]
    key = ".".join(map(str, where))
    if error["type"] == "extra_forbidden":
        if form and error["loc"][:1] == ("adapter",):
            form = Adapter
        allowed = list(form.model_fields) if form else _allowed_keys(where[:-1])
        return f"{key}: unknown key; {nearest(str(where[-1]), allowed)}"
    if error["type"] == "missing":
        return f"{key}: this key is missing"
    if error["type"] == "invalid_key":
        return f"{key}: a key must be text; put it in quotes if it is meant"
    message = error["msg"].removeprefix("Value error, ")
    last = error["loc"][-1] if error["loc"] else None
    if last in _FORMS:
        message = f"must be {_FORMS[str(last)]}"
    elif error["type"] == "string_pattern_mismatch" and where[-1] != "weights_sha256":
        message = "use letters, digits, '.', '_' and '-', at most 100, a letter or digit first"
    elif error["type"] in ("model_type", "dict_type"):
        message = "must be a section of keys and values"
        if where[0] == "datasets":
            message = "must be a folder or URI, or a section with uri"
    is_section = isinstance(error["input"], dict | list) and not (section and error["loc"])
    return f"{key}: {message}" if is_section else f"{key}: {error['input']!r}: {message}"


def _allowed_keys(where: Sequence[Any]) -> list[str]:
    section = _SECTIONS.get(".".join(map(str, [*where[:1], *where[2:3]])), Around)
    return [field.alias or name for name, field in section.model_fields.items()]
