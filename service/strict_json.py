"""JSON in and out, strictly: no NaN, no infinities, no lone surrogates, no runaway nesting."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic_core import from_json
from starlette.responses import Response

_render = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def loads(data: bytes) -> Any:
    """Parse one JSON document.

    Raises ValueError that says where it is malformed. NaN, Infinity, invalid UTF-8, lone surrogates
    and nesting deeper than the parser's limit are malformed: Python's own parser would let them
    through, to fail later as a 500.
    """
    return from_json(data, allow_inf_nan=False)


def dumps(value: Any) -> bytes:
    """Render `value` as compact UTF-8; numbers JSON doesn't have become null."""
    try:
        text = _render(value)
    except ValueError:  # NaN or infinity somewhere inside; an upstream may send them
        text = _render(without_nan(value))
    return text.encode("utf-8", "replace")


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
