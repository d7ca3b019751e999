"""Where settings come from: defaults < router.toml < ``ROUTER_*`` environment < flags."""

from __future__ import annotations

import contextlib
import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from router.config import PREFIX, URLS, Settings
from router.config_words import allowed, flag, variable
from router.errors import ConfigError
from router.upstreams import entry
from router.urls import public_url

CONFIG_FILE = "router.toml"
CONFIG_VARIABLE = "ROUTER_CONFIG"

_NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "ROUTER_SHARED_DATA"})
"""Variables with our prefix that are no settings: the config file's place, and the tests' data."""


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Merge defaults, the config file, ``ROUTER_*`` variables and `overrides`; later ones win.

    Parameters
    ----------
    overrides : values by setting name, from flags; an absent name overrides nothing.
    config : the config file. Default: the one ``ROUTER_CONFIG`` names, else router.toml in the
        working folder if there is one.
    environ : the environment to read, default the process's own. A variable that is set but empty
        counts as not set.

    Raises
    ------
    ConfigError
        A name is unknown (the message suggests the near one), a value is not allowed (the message
        says what is), or the config file is missing or no TOML.
    """
    environ = os.environ if environ is None else environ
    file = _file_layer(config, environ)
    flags = _Layer("{flag}", dict(overrides or {}))
    key_names = [name for layer in (file, flags) for name in _key_names(layer.values)]
    layers = (file, _environment_layer(environ, exempt=key_names), flags)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name not in Settings.model_fields:
                raise ConfigError(_unknown(layer.source(name), name))
            values[name] = value
            sources[name] = layer.source(name)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, values, sources)) from None


class _Layer:
    """The values one source sets, and how messages call that source."""

    def __init__(self, label: str, values: Mapping[str, Any]) -> None:
        self.label = label
        self.values = values

    def source(self, name: str) -> str:
        return self.label.format(variable=variable(name), flag=flag(name))


class _Environment(EnvSettingsSource):
    """pydantic-settings' own reading of variables, from a mapping instead of ``os.environ``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}


def _environment_layer(environ: Mapping[str, str], exempt: Iterable[Any]) -> _Layer:
    ours = {name: value for name, value in environ.items() if value and name.startswith(PREFIX)}
    values = _Environment(ours)()
    # The key itself may live in a variable of our prefix, such as ROUTER_UPSTREAM_KEY.
    no_settings = {*_NOT_SETTINGS, *exempt, *_key_names(values)}
    for name in ours.keys() - no_settings:
        values.setdefault(name.removeprefix(PREFIX).lower(), ours[name])
    return _Layer("{variable}", values)


def _key_names(values: Mapping[str, Any]) -> Iterator[str]:
    """The variables that hold keys, as far as that can be told before anything is checked."""
    yield from (name for name in [values.get("upstream_key_env")] if isinstance(name, str))
    with contextlib.suppress(ValueError):  # it is told of when the values are checked
        entries = entry.read_entries(values.get("upstreams", ()))
        for one in entries if isinstance(entries, list | tuple) else ():
            if isinstance(one, Mapping) and isinstance(one.get("key_env"), str):
                yield one["key_env"]


def _file_layer(config: Path | None, environ: Mapping[str, str]) -> _Layer:
    named = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    path = named or Path(CONFIG_FILE)
    if named is None and not path.is_file():
        return _Layer("", {})
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {path} is not valid TOML: {error}") from error
    label = str(path).replace("{", "{{").replace("}", "}}")
    return _Layer(label, values)


def _unknown(source: str, name: str) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), Settings.model_fields, n=1, cutoff=0.6)
    if source.startswith(PREFIX):
        subject, hint = f"{source} is no setting's variable", near and variable(near[0])
    elif source.startswith("--"):
        subject, hint = f"there is no setting {source}", near and flag(near[0])
    else:
        subject, hint = f"{source} sets {name!r}, which is no setting", near and near[0]
    advice = f"did you mean {hint}?" if hint else f"there are {', '.join(Settings.model_fields)}"
    return f"{subject}; {advice}"


def _explain(error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    lines: dict[str, str] = {}  # a union reports each of its members: one line a setting is enough
    for item in error.errors():
        name = str(item["loc"][0])
        if name == "upstreams":
            lines.setdefault(*entry.explain(cast(Mapping[str, Any], item), sources[name]))
            continue
        shown = _shown(name, values[name])
        own_words = item["type"] == "value_error" and str(item["ctx"]["error"])
        reason = own_words or f"allowed is {allowed(name)}"
        lines.setdefault(name, f"{name} = {shown} (from {sources[name]}): {reason}")
    return "\n".join(lines.values())


def _shown(name: str, value: Any) -> str:
    if name in URLS and isinstance(value, str):
        return repr(public_url(value))
    if name == "upstream_key_env":  # likely the key itself, put there by mistake
        return "***"
    return repr(value)
