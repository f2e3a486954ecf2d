from typing import Any

import pytest

from semigrid.data.builder.request import load_request
from semigrid.data.errors import InputError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seed": 10**400}, "seed: "),
        ({"pool_unit": 10**400}, "pool_unit: "),
        ({"classes": ["a", "b", "a"]}, "classes: .*the class 'a' is given twice"),
        ({"classes": ["a"]}, "classes: "),
        ({"val_share": float("nan")}, "val_share: "),
        ({"val_share": 1}, "val_share: "),
        ({"val_share": 0.5, "test_share": 0.5}, "test_share: .* leave nothing to train on"),
        ({"val_share": 0.9}, "test_share: 0.1 and val_share 0.9 leave nothing to train on"),
        ({"max_pixels": 0}, "max_pixels: "),
        ({"sources": "x"}, "sources: unknown key; allowed are "),
        ({"pool": "x"}, "pool: "),
        ({"name": None, "seed": "x"}, "seed: "),
    ],
)
def test_values_that_would_only_fail_later(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=f"^photos: {expected}"):
        load_request("photos", options)
