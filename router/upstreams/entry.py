"""One ``[[upstreams]]`` table: what is configured of an upstream."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from router.errors import ConfigError
from router.prices import Prices
from router.urls import checked_upstream, public_url

Api = Literal["openai", "anthropic"]

_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class UpstreamEntry(BaseModel):
    """An upstream and how it is used. Frozen; the repr shows no secret, for it holds none.

    Attributes
    ----------
    name : what logs, metrics and answers call it.
    url : base URL of its API, ending in its path, such as ``https://host/v1``.
    api : what it speaks: OpenAI's chat completions, or Anthropic's messages.
    model : the model it is asked for; empty passes the caller's own on.
    models : the caller's model -> the model it is asked for; goes before `model`.
    key_env : the variable that holds its key; empty sends none.
    priority : those of the lowest number are asked first.
    weight : share of the requests among those of one priority.
    price_in, price_out : USD per million prompt and answer tokens.
    connect_timeout, read_timeout, total_timeout, retries : in place of ``upstream_...``'s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    url: str
    api: Api = "openai"
    model: str = ""
    models: dict[str, Annotated[str, Field(min_length=1)]] = {}
    key_env: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    price_in: _Price = 0.0
    price_out: _Price = 0.0
    connect_timeout: _Seconds | None = None
    read_timeout: _Seconds | None = None
    total_timeout: _Seconds | None = None
    retries: Annotated[int, Field(ge=0, le=10)] | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would take `priority = true` for 1
            raise ValueError("")
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return checked_upstream(value, "key_env")

    @model_validator(mode="after")
    def _names_a_model(self) -> UpstreamEntry:
        if self.api == "anthropic" and not (self.model or self.models):
            raise ValueError("an upstream with api = anthropic needs `model` or `models`")
        return self

    @property
    def prices(self) -> Prices:
        return Prices(self.price_in, self.price_out)

    def key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """The key from the variable that `key_env` names. See `key_in`."""
        return key_in(self.key_env, environ, f"key_env of the upstream {self.name}")


def key_in(variable: str, environ: Mapping[str, str] | None, named_by: str) -> str | None:
    """Return the key that the environment holds in `variable`; None when it is unset or blank.

    White space around the key is dropped: keys read from files end in a newline, which no HTTP
    header may hold.

    Raises
    ------
    ConfigError
        The key holds characters that an HTTP header can't carry. The message never shows it.
    """
    if not variable:
        return None
    key = (os.environ if environ is None else environ).get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the variable {variable} (named by {named_by}) holds "
            "characters that no key has, such as a line break or a curly quote; set it again"
        )
    return key or None


def read_entries(value: Any) -> Any:
    """What ``upstreams`` holds, from a variable's or a flag's JSON too. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return ()
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"allowed is {ALLOWED_LIST}") from None


def check_names(entries: tuple[UpstreamEntry, ...]) -> tuple[UpstreamEntry, ...]:
    """Return `entries`. Raises ValueError when two share a name."""
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two upstreams are called {twice[0]}; each needs a name of its own")
    return entries


ALLOWED_LIST = "tables [[upstreams]] in router.toml, elsewhere a JSON list of such objects"

_ALLOWED = {
    "name": "letters, digits, dot, dash, underscore: 63 at most",
    "url": "a URL such as https://HOST/v1",
    "api": "openai or anthropic",
    "model": "text",
    "models": "a table of the caller's model = the upstream's",
    "key_env": "the name of an environment variable, not the key itself",
    "priority": "a whole number from 0 to 1000",
    "weight": "a number above 0",
    "price_in": "a number of at least 0",
    "price_out": "a number of at least 0",
    "connect_timeout": "a number above 0 and at most 86400",
    "read_timeout": "a number above 0 and at most 86400",
    "total_timeout": "a number above 0 and at most 86400",
    "retries": "a whole number from 0 to 10",
}


def explain(item: Mapping[str, Any], source: str) -> tuple[str, str]:
    """What is wrong with ``upstreams``: the place, and one line for people without secrets.

    `item` is one of pydantic's errors whose ``loc`` begins with ``upstreams``.
    """
    place = "".join(_steps(item["loc"]))
    own_words = item["type"] == "value_error" and str(item["ctx"]["error"])
    if len(item["loc"]) < 3:  # the list or a table as a whole
        reason = own_words or f"allowed is {ALLOWED_LIST}"
        return place, f"{place} (from {source}): {reason}"
    field = str(item["loc"][2])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, UpstreamEntry.model_fields, n=1, cutoff=0.6)
        names = ", ".join(UpstreamEntry.model_fields)
        hint = f"did you mean {near[0]}?" if near else f"there are {names}"
        return place, f"{place} (from {source}) is no setting of an upstream; {hint}"
    reason = own_words or f"allowed is {_ALLOWED[field]}"
    if item["type"] == "missing":
        return place, f"{place} (from {source}) is missing: {reason}"
    return place, f"{place} = {_shown(field, item['input'])} (from {source}): {reason}"


def _steps(loc: tuple[str | int, ...]) -> Iterator[str]:
    for i, step in enumerate(loc):
        if isinstance(step, int):
            yield f"[{step}]"
        else:
            yield f".{step}" if i else step


def _shown(field: str, value: Any) -> str:
    if field == "key_env":  # likely the key itself, put there by mistake
        return "***"
    if field == "url":
        return repr(public_url(value)) if isinstance(value, str) else "***"
    return repr(value)
