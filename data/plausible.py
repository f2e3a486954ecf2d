"""What a file from somebody else may hold: finite numbers of a plausible size."""

import reprlib
from typing import Annotated

from pydantic import Field, ValidationError

_Finite = Field(allow_inf_nan=False)
Number = Annotated[float, _Finite]
# in seconds since 1970, up to the year 5138, which every calendar still knows
Moment = Annotated[float, Field(ge=0, le=1e11), _Finite]
Seconds = Annotated[float, Field(ge=0, le=1e11), _Finite]
Count = Annotated[int, Field(ge=0, le=10**12)]
# by kind of device: "NVIDIA A10G", or "cpu" for the seconds of CPU cores
DeviceSeconds = dict[str, Annotated[float, Field(ge=0, le=1e13), _Finite]]


def first_problem(error: ValidationError) -> str:
    """Where a content is wrong first, and why: ``val.acc1: Input should ..., not 'much'``."""
    first = error.errors(include_url=False)[0]
    where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
    said = first["msg"].partition(" or instance of ")[0]  # names of our classes help nobody
    if first["type"] in ("json_invalid", "missing", "value_error", "model_type"):
        return where + said.removeprefix("Value error, ")
    try:
        shown = reprlib.repr(first["input"])
    except ValueError:  # Python writes no number of thousands of digits
        shown = "such a long number"
    return f"{where}{said}, not {shown}"
