"""OpenAI's ``/v1/responses`` as this gateway understands it: text in, text out, nothing kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from service.errors import ApiError, bad_request
from service.openai import (
    MAX_MESSAGES,
    JsonSchemaName,
    Metadata,
    ModelName,
    ReasoningEffort,
    RouterOptions,
    ServiceTier,
    Verbosity,
    Wire,
)

LOGPROBS = "message.output_text.logprobs"

_NOT_HERE = {
    "access_programs": "it belongs to OpenAI's own service",
    "background": "answers are made while the client waits",
    "background_options": "answers are made while the client waits",
    "context_management": "send the turns that shall count in 'input'",
    "conversation": "nothing is kept between requests; send the earlier turns in 'input'",
    "image": "images are not made here",
    "max_tool_calls": "tools work with /v1/chat/completions",
    "moderation": "it works with /v1/chat/completions, by the upstream",
    "previous_response_id": "nothing is kept between requests; send the earlier turns in 'input'",
    "prompt": "no prompts are kept here; send the text in 'instructions' and 'input'",
    "tools": "tools work with /v1/chat/completions",
}


class InputPart(Wire):
    """One part of an item's content. What an answer carried may be sent back as it came."""

    type: Literal["input_text", "output_text", "text", "refusal", "input_image"]
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class InputItem(Wire):
    """One turn."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        list[InputPart],
        BeforeValidator(_as_parts, json_schema_input_type=str | list[InputPart]),
    ]
    type: Literal["message"] | None = None
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class TextFormat(Wire):
    type: Literal["text", "json_object", "json_schema"]
    name: JsonSchemaName | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Wire):
    format: TextFormat | None = None
    verbosity: Verbosity | None = None


class Reasoning(Wire):
    effort: ReasoningEffort | None = None
    summary: None = None


class ResponsesStreamOptions(Wire):
    include_obfuscation: Literal[False] | None = None


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class ResponsesRequest(Wire):
    """The body of `POST /v1/responses`."""

    model: ModelName
    input: Annotated[
        list[InputItem],
        Field(min_length=1, max_length=MAX_MESSAGES),
        BeforeValidator(_as_items, json_schema_input_type=str | list[InputItem]),
    ]
    instructions: str | None = None
    router: RouterOptions | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    metadata: Metadata | None = None
    service_tier: ServiceTier | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    store: Literal[False] | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None

    access_programs: Any = None
    background: Any = None
    background_options: Any = None
    context_management: Any = None
    conversation: Any = None
    image: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    tools: Any = None


_THE_SAME = (
    *("model", "router", "stream", "temperature", "top_p", "metadata", "service_tier", "user"),
    *("safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)


def chat_body(request: ResponsesRequest, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chat request that asks the same. Raises ApiError for what can't be asked here."""
    for param, why in _NOT_HERE.items():
        if getattr(request, param):
            raise bad_request(f"'{param}' is not supported: {why}.", param, "unsupported_parameter")
    body = {name: raw[name] for name in _THE_SAME if raw.get(name) is not None}
    body["messages"] = list(_messages(request))
    if request.max_output_tokens is not None:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.include or request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.reasoning is not None and request.reasoning.effort is not None:
        body["reasoning_effort"] = request.reasoning.effort
    text = request.text or TextConfig()
    if text.verbosity is not None:
        body["verbosity"] = text.verbosity
    if text.format is not None and text.format.type != "text":
        body["response_format"] = _response_format(text.format)
    return body


def _messages(request: ResponsesRequest) -> Iterator[dict[str, Any]]:
    if request.instructions:
        yield {"role": "system", "content": request.instructions}
    for index, item in enumerate(request.input):
        where = f"input[{index}].content"
        parts = [_part(part, f"{where}[{i}]") for i, part in enumerate(item.content)]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        is_plain = len(parts) == len(texts) == 1  # some upstreams take no lists
        yield {"role": item.role, "content": texts[0] if is_plain else parts}


def _part(part: InputPart, where: str) -> dict[str, Any]:
    match part.type:
        case "input_image" if part.image_url is not None:
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
        case "refusal" if part.refusal is not None:
            return {"type": "refusal", "refusal": part.refusal}
        case "input_text" | "output_text" | "text" if part.text is not None:
            return {"type": "text", "text": part.text}
    needed = {"input_image": "image_url", "refusal": "refusal"}.get(part.type, "text")
    raise bad_request(f"'{where}' of type {part.type} needs '{needed}'.", f"{where}.{needed}")


def _response_format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.name is None or wanted.schema_ is None:
        missing = "name" if wanted.name is None else "schema"
        raise ApiError(
            400,
            f"Missing required parameter: 'text.format.{missing}'.",
            code="missing_required_parameter",
            param=f"text.format.{missing}",
        )
    told: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema_}
    if wanted.description is not None:
        told["description"] = wanted.description
    if wanted.strict is not None:
        told["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": told}
