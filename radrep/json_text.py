"""JSON of files, where what is nested too deeply is broken like any other."""

import json
from collections.abc import Callable
from typing import Any

_MAX_DEPTH = 100
_TOO_DEEP = f"its JSON is nested more than {_MAX_DEPTH} levels deep"


def load_json(
    text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """json.loads; ValueError for what is nested too deeply, too.

    `pairs` makes an object of its keys and values, by default a dict.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_depth(value)
    return value


def check_depth(value: object) -> None:
    """Raise ValueError if a value of JSON is nested too deeply to be walked by recursion."""
    level = [value] if isinstance(value, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
