"""JSON from other people: parsed and checked against the shape that is expected, in one step."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from semigrid.data.errors import InputError
from semigrid.data.plausible import first_problem

Shape = TypeVar("Shape", bound=BaseModel)


def parse_json(shape: type[Shape], content: str | bytes, where: str) -> Shape:
    """Parses JSON of a shape.

    Raises ``InputError`` when the content is not JSON (too deep, a number too long and half a
    surrogate pair count as that), or has another shape.
    """
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from error


def of_shape(shape: type[Shape], value: Any, where: str) -> Shape:
    """A value parsed before, checked against a shape. Raises ``InputError``."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from error
