"""JSON in and out, strictly: no NaN, no infinities, no lone surrogates, no runaway nesting."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pydantic_core import from_json, to_json
from starlette.responses import Response

_render = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_MAY_OVERFLOW = re.compile(rb"[eE]\+?\d{3}|\d{200}")
"""What a number beyond 1.8e308 has; looking at all numbers would cost every request."""


def loads(data: bytes) -> Any:
    """Parse one JSON document.

    Raises ValueError that says where it is malformed. NaN, Infinity, invalid UTF-8, lone surrogates
    and nesting deeper than the parser's limit are malformed: Python's own parser would let them
    through, to fail later as a 500. So are numbers beyond a double's range: they would be infinite.
    """
    value = from_json(data, allow_inf_nan=False)
    if _MAY_OVERFLOW.search(data) and not _is_finite(value):
        raise ValueError("a number is larger than 1.8e308")
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_is_finite, inner))


def dumps(value: Any) -> bytes:
    """Render `value` as compact UTF-8; numbers JSON doesn't have become null."""
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:  # half a surrogate pair, or hundreds of levels; an upstream may send both
        return _patiently_rendered(value).encode("utf-8", "replace")


def _patiently_rendered(value: Any) -> str:
    try:
        return _render(value)
    except ValueError:  # NaN or infinity somewhere inside
        return _render(without_nan(value))


def finite(value: float | None) -> float | None:
    """Return `value`, or None when JSON has no way to write it."""
    return value if value is not None and math.isfinite(value) else None


def without_nan(value: Any) -> Any:
    """Return a copy of a JSON-like value with every NaN and infinity replaced by None."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


class StrictJSONResponse(Response):
    """A response whose body is strict JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)
