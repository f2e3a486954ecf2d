"""The one writer of JSON for other programs."""

import json

import numpy as np
import pytest

from semigrid.data.json_text import json_text


@pytest.mark.parametrize("missing", [float("nan"), float("inf"), -np.inf, np.float64("nan")])
def test_a_number_that_is_not_finite_is_null(missing: float) -> None:
    text = json_text({"a": [1.5, missing, {"b": (missing, 0)}], "c": missing, "d": True})
    expected = {"a": [1.5, None, {"b": [None, 0]}], "c": None, "d": True}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_letters_are_escaped_where_the_encoding_is_unknown() -> None:
    assert json_text(["ä"]) == '[\n "\\u00e4"\n]'
    assert json_text(["ä"], ascii=False) == '[\n "ä"\n]'
