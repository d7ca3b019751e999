"""Flags made from settings: a command names the settings it uses and gets a `Settings`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_origin

import click

from router.config import Settings
from router.config_load import load_settings
from router.config_words import allowed, description, flag, setting_names

R = TypeVar("R")

ENGINE = ("model", "calibration", "threads", "n_gpu_layers", "context")
"""What the local engine and its calibration are made of."""

MANY_QUESTIONS = ("model", "threads", "n_gpu_layers", "context", "slots")
"""What the local engine is made of where a command asks it a whole set of questions."""

LARGE_MODEL = ("upstream", "upstream_model", "upstream_key_env")
"""Which large model labels such a set."""

UPSTREAM = tuple(name for name in setting_names() if name.startswith("upstream"))


def settings_options(*names: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command one flag for each named setting (none named: for all), and ``--config``.

    The command is called with `settings`, in which flags win over ``ROUTER_*`` variables, those
    over the config file, and that over the defaults.

    Raises
    ------
    KeyError
        A name is no setting's.
    """
    chosen = names or setting_names()

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def with_settings(*args: Any, config: Path | None, **given: Any) -> R:
            overrides = {name: given.pop(name) for name in chosen}
            overrides = {name: value for name, value in overrides.items() if value is not None}
            return command(*args, settings=load_settings(overrides, config=config), **given)

        decorated: Callable[..., R] = click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Settings file to read instead of ./router.toml.",
        )(with_settings)
        for name in reversed(chosen):
            decorated = _option(name)(decorated)
        return decorated

    return decorate


def _option(name: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    default = Settings.model_fields[name].default
    shown = "" if default in (None, "", ()) else f"  [default: {default}]"
    # Values stay text here: `load_settings` reads them as it reads variables, with one wording
    # for what is wrong.
    return click.option(flag(name), name, metavar=_metavar(name), help=description(name) + shown)


def _metavar(name: str) -> str:
    annotation = Settings.model_fields[name].annotation
    if get_origin(annotation) is tuple:
        return "JSON"
    if get_origin(annotation) is not None and annotation != str | None:
        words = allowed(name).split(" or ")
        return "|".join("N" if " " in word else word for word in words)
    if annotation is int:
        return "N"
    if annotation is float:
        return "X"
    return "URL" if "URL" in allowed(name) else "TEXT"
