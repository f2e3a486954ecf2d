"""JSON from other people: parsed and checked against the shape that is expected, in one step."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from semigrid.data.errors import InputError

Shape = TypeVar("Shape", bound=BaseModel)


def parse_json(shape: type[Shape], content: str | bytes, where: str) -> Shape:
    """Parses JSON of a shape.

    Raises ``InputError`` when the content is not JSON (too deep, a number too long and half a
    surrogate pair count as that), or has another shape.
    """
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise _problem(where, error) from error


def of_shape(shape: type[Shape], value: Any, where: str) -> Shape:
    """A value parsed before, checked against a shape. Raises ``InputError``."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise _problem(where, error) from error


def _problem(where: str, error: ValidationError) -> InputError:
    problem = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(map(str, problem["loc"]))
    said = problem["msg"].partition(" or instance of ")[0]  # names of our classes help nobody
    return InputError(f"{where}: {f'{path}: ' if path else ''}{said}")
