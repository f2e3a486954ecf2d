"""JSON as every program can read it: without NaN and Infinity, which only Python writes."""

import json
import math
from typing import Any


def json_text(content: Any, *, ascii: bool = True) -> str:
    """The content as indented JSON, with null for a number that is not finite.

    Args:
        ascii: escape all other letters, for outputs whose encoding is not known.
    """
    return json.dumps(_finite(content), indent=1, ensure_ascii=ascii, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
