"""The settings in words: their names in all places, what they do, which values they take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from router.config import PREFIX, Settings
from router.upstreams import entry


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in the order in which help and docs show them."""
    return tuple(Settings.model_fields)


def description(name: str) -> str:
    """Return a setting's one-line description. Raises KeyError when there is no such setting."""
    return Settings.model_fields[name].description or ""


def flag(name: str) -> str:
    """Return the flag of a setting: ``n_gpu_layers`` -> ``--n-gpu-layers``."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting: ``n_gpu_layers`` -> ``ROUTER_N_GPU_LAYERS``."""
    return PREFIX + name.upper()


def allowed(name: str) -> str:
    """Say in words which values a setting takes: ``a whole number from 0 to 65535``."""
    return _ALLOWED.get(name) or _allowed(Settings.model_fields[name])


_ALLOWED = {
    "tensor_split": "numbers with commas between them, such as 3,1",
    "cors_origins": "origins with commas between them, such as https://app.example.org",
    "upstreams": entry.ALLOWED_LIST,
    "upstream": "a URL such as http://127.0.0.1:9000/v1",
    "redis_url": "a URL such as redis://127.0.0.1:6379/0",
    "upstream_key_env": "the name of an environment variable, not the key itself",
}


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " or ".join(get_args(field.annotation))
    if field.annotation is str:
        return "text" if not field.metadata else "text that is not empty"
    if field.annotation in (int, float):
        noun = "a whole number" if field.annotation is int else "a number"
        return " ".join([noun, *_bounds(field.metadata)])
    return " or ".join(_alternatives(get_args(field.annotation)))


def _alternatives(members: tuple[Any, ...]) -> Iterator[str]:
    for member in members:
        if get_origin(member) is Literal:
            yield from get_args(member)
        else:
            yield _allowed(FieldInfo.from_annotation(member))


def _bounds(metadata: list[Any]) -> Iterator[str]:
    low = next((m.ge for m in metadata if isinstance(m, annotated_types.Ge)), None)
    above = next((m.gt for m in metadata if isinstance(m, annotated_types.Gt)), None)
    high = next((m.le for m in metadata if isinstance(m, annotated_types.Le)), None)
    if low is not None:
        yield f"from {low} to {high}" if high is not None else f"of at least {low}"
    else:
        yield f"above {above}" + (f" and at most {high}" if high is not None else "")
