"""OpenAI's chat request as this gateway understands it: every field it knows, and none beside.

A field that the small model can't honour is still understood here; `service.query` turns it into a
need, and the request goes to the upstream. A field that nobody here can honour is refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from router.answer import Mode, StreamMode

MAX_STOPS = 16
MAX_MESSAGES = 2048
_BIG = 2**31 - 1


class Wire(BaseModel):
    """A JSON object in which unknown keys are errors and numbers are not strings."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _text_as_part(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _text_as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_text_as_list, json_schema_input_type=str | list[str]),
]
LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
ModelName = Annotated[
    str,
    Field(
        description="auto, local or remote", json_schema_extra={"enum": ["auto", "local", "remote"]}
    ),
]
JsonSchemaName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Verbosity = Literal["low", "medium", "high"]
ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]


class ContentPart(Wire):
    """One part of a message's content; exactly the field named by `type` is set."""

    type: Literal["text", "refusal", "image_url", "input_audio", "file"]
    text: str | None = None
    refusal: str | None = None
    image_url: dict[str, Any] | None = None
    input_audio: dict[str, Any] | None = None
    file: dict[str, Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> ContentPart:
        said = self.model_fields_set - {"prompt_cache_breakpoint"}
        if said != {"type", self.type} or getattr(self, self.type) is None:
            raise PydanticCustomError(
                "content_part",
                "a content part of type {kind} has the field {kind} and no other",
                {"kind": self.type},
            )
        return self


class ChatMessage(Wire):
    """One turn. What an assistant's answer carried may be sent back as it came.

    litellm adds `provider_specific_fields` to it, which nobody else understands.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        list[ContentPart] | None,
        BeforeValidator(_text_as_part, json_schema_input_type=str | list[ContentPart] | None),
    ] = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    annotations: list[dict[str, Any]] | None = None
    provider_specific_fields: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        instead = self.tool_calls or self.function_call or self.refusal or self.audio
        if self.content is None and not (self.role == "assistant" and instead):
            raise PydanticCustomError(
                "no_content", "a message of role {role} needs content", {"role": self.role}
            )
        return self


class StreamOptions(Wire):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Wire):
    """A schema and its name; without `schema` it asks for any JSON object."""

    name: JsonSchemaName
    description: Annotated[str, Field(max_length=100_000)] | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class RouterOptions(Wire):
    """The caller's own policy for this request; absent fields leave the gateway's.

    `mode` repeats or narrows `model`. `threshold` keeps the local answer iff p_correct is at least
    that; `max_risk` asks for the threshold whose kept answers were wrong at most that often on the
    hold-out. `local_only` forbids that the query leaves the machine. `uq` names the uncertainty
    scores to report. `stream_mode` says when a streamed answer is decided on.
    """

    mode: Mode | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    max_risk: Annotated[float, Field(ge=0, le=1)] | None = None
    local_only: bool | None = None
    uq: Annotated[list[str], Field(max_length=64)] | None = None
    stream_mode: StreamMode | None = None


class ChatRequest(Wire):
    """The body of `POST /v1/chat/completions` and `POST /v1/route`.

    A request that sets no `temperature` is answered greedily by the local model.
    """

    model: ModelName
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    router: RouterOptions | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_BIG)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    max_tokens: Annotated[int, Field(ge=1, le=_BIG)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=_BIG)] | None = None
    stop: Stops | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    verbosity: Verbosity | None = None
    web_search_options: dict[str, Any] | None = None
    service_tier: ServiceTier | None = None
    moderation: dict[str, Any] | None = None

    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    metadata: Metadata | None = None
    store: Literal[False] | None = None
