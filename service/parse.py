"""Bytes -> ChatRequest, with errors that name the field and say what was expected."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from service import strict_json
from service.disconnect import ClientGoneError
from service.errors import ApiError, bad_request
from service.openai import (
    ChatMessage,
    ChatRequest,
    ContentPart,
    JsonSchema,
    RouterOptions,
    StreamOptions,
)

MAX_BODY_BYTES = 32 * 2**20
"""Larger than any context holds in text; room for images that go to the upstream."""

BODY_SECONDS = 60.0
"""How long a body may take to arrive: 32 MiB in it are 4.5 Mbit/s."""

OTHER_NAMES = {
    "input": "messages",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_completion_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "prompt": "messages",
    "random_seed": "seed",
    "repeat_penalty": "repetition_penalty",
    "stop_sequences": "stop",
    "system": "messages",
    "top_logits": "top_logprobs",
}
"""What other servers call the same thing, beyond what spelling alone finds."""

_MODELS: dict[str, type[BaseModel]] = {
    "messages": ChatMessage,
    "content": ContentPart,
    "router": RouterOptions,
    "stream_options": StreamOptions,
    "json_schema": JsonSchema,
}


M = TypeVar("M", bound=BaseModel)


class Parsed(NamedTuple, Generic[M]):
    """A valid request, and the same as the client sent it."""

    request: M
    raw: dict[str, Any]


async def read_chat_request(request: Request) -> Parsed[ChatRequest]:
    """Read and check the body of a chat request. Raises ApiError that names what is wrong."""
    return await read_request(request, ChatRequest)


async def read_request(request: Request, model: type[M]) -> Parsed[M]:
    """Read a body and check that it is a `model`. Raises ApiError that names what is wrong."""
    # A web page may make a browser post text/plain anywhere without asking; never JSON.
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise ApiError(
            415,
            f"The request's Content-Type is {media_type[:100] or 'missing'!r}; "
            "send 'application/json'.",
            code="unsupported_media_type",
        )
    _refuse_large(request)
    return _parse(await _read_body(request), model)


def parse_chat_request(data: bytes) -> Parsed[ChatRequest]:
    """Check a chat request. Raises ApiError that names what is wrong."""
    return _parse(data, ChatRequest)


def _parse(data: bytes, model: type[M]) -> Parsed[M]:
    try:
        raw = strict_json.loads(data)
    except ValueError as exc:
        raise bad_request(f"The body is not valid JSON: {exc}.", None, "invalid_json") from None
    if not isinstance(raw, dict):
        raise bad_request("The body must be a JSON object.", None, "invalid_type")
    return _checked(raw, model)


def check_chat_request(raw: dict[str, Any]) -> Parsed[ChatRequest]:
    """Check a chat request that another kind of request amounts to. Raises as `read_request`."""
    return _checked(raw, ChatRequest)


def _checked(raw: dict[str, Any], model: type[M]) -> Parsed[M]:
    try:
        return Parsed(model.model_validate(raw), raw)
    except ValidationError as exc:
        raise _explain(exc.errors(include_url=False), model) from None


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise _too_large()
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(
            408,
            f"The request's body was not there within {BODY_SECONDS:g} s.",
            code="request_timeout",
            headers={"Connection": "close"},
        ) from None
    return bytes(body)


def _refuse_large(request: Request) -> None:
    """Raise for a body that says itself that it is too large."""
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > MAX_BODY_BYTES:
        raise _too_large()


def _too_large() -> ApiError:
    return ApiError(
        413, f"The request is larger than {MAX_BODY_BYTES // 2**20} MiB.", code="request_too_large"
    )


def _explain(errors: Sequence[ErrorDetails], model: type[BaseModel]) -> ApiError:
    """Turn pydantic's findings into one error. An unknown field goes first: it explains others."""
    chosen = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    loc = _location(chosen)
    param = _param(loc)
    match chosen["type"]:
        case "extra_forbidden":
            return _unknown(loc, param, model)
        case "missing":
            return bad_request(
                f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
            )
    message, code = _phrase(chosen, param)
    return bad_request(message, param, code)


def _location(error: ErrorDetails) -> tuple[str | int, ...]:
    """Return the path without the branches of unions, which name Python types and no fields."""
    loc = error["loc"]
    if loc and loc[0] in ("tool_choice", "function_call"):
        return loc[:1]
    return tuple(part for part in loc if part != "[key]")


def _param(loc: tuple[str | int, ...]) -> str:
    """Write a path as OpenAI does: ``messages[0].content``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _unknown(loc: tuple[str | int, ...], param: str, whole: type[BaseModel]) -> ApiError:
    name = str(loc[-1])
    inside = next((part for part in reversed(loc[:-1]) if isinstance(part, str)), None)
    model = _MODELS.get(inside) if inside else whole
    known = list(model.model_fields) if model else []
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    guess = OTHER_NAMES.get(name) if model is ChatRequest else None
    if guess is None and near:
        guess = near[0]
    hint = f" Did you mean '{guess}'?" if guess else ""
    return bad_request(f"Unknown parameter: '{param[:200]}'.{hint}", param, "unknown_parameter")


def _phrase(error: ErrorDetails, param: str) -> tuple[str, str]:
    """Return message and code for a field that is there and wrong."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    number = "integer" if isinstance(value, int) else "decimal"
    match kind:
        case "greater_than_equal" | "greater_than":
            sign, bound = (">=", context["ge"]) if "ge" in context else (">", context["gt"])
            return (
                f"Invalid '{param}': {number} below minimum value. "
                f"Expected a value {sign} {bound}, but got {value} instead.",
                f"{number}_below_min_value",
            )
        case "less_than_equal" | "less_than":
            sign, bound = ("<=", context["le"]) if "le" in context else ("<", context["lt"])
            return (
                f"Invalid '{param}': {number} above maximum value. "
                f"Expected a value {sign} {bound}, but got {value} instead.",
                f"{number}_above_max_value",
            )
        case "literal_error":
            return (
                f"Invalid value for '{param}': got {_shown(value)}, "
                f"expected {context['expected']}.",
                "invalid_value",
            )
        case "too_long" | "too_short" | "string_too_long" | "string_too_short":
            return f"Invalid '{param}': {error['msg'].lower()}.", kind
        case "content_part" | "no_content" | "string_pattern_mismatch":
            return f"Invalid '{param}': {error['msg']}.", "invalid_value"
    wanted = _WANTED.get(kind, "another type")
    return (
        f"Invalid type for '{param}': expected {wanted}, but got {_type_name(value)} instead.",
        "invalid_type",
    )


_WANTED = {
    "bool_type": "a boolean",
    "dict_type": "an object",
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "list_type": "an array (or a string, where text is allowed)",
    "model_type": "an object",
    "string_type": "a string",
}


def _type_name(value: object) -> str:
    names = {
        type(None): "null",
        bool: "a boolean",
        int: "an integer",
        float: "a decimal number",
        str: "a string",
        list: "an array",
    }
    return names.get(type(value), "an object")


def _shown(value: object) -> str:
    """Return a short form of a wrong value; long ones may be a prompt in the wrong place."""
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:50]}..."
