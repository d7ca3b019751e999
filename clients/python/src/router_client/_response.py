"""Responses, read without I/O: bodies become values, failures become errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from router_client._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    InvalidResponse,
    RouterClientError,
    error_class,
)
from router_client._models import (
    Answer,
    Decision,
    Feedback,
    Health,
    LocalAnswer,
    ModelInfo,
    RouterInfo,
    ToolCall,
    Usage,
)
from router_client._retry import retry_after

_SHOWN = 200  # characters of a body that is not ours to show in a message


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _AnswerMessage(_Wire):
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None


class _Choice(_Wire):
    message: _AnswerMessage
    finish_reason: str


class _ChatCompletion(_Wire):
    # A remote answer is the upstream's own object, and not every upstream sets these two.
    id: str | None = None
    model: str | None = None
    choices: tuple[_Choice, ...]
    usage: Usage | None = None
    router: RouterInfo


class _RouteDecision(_Wire):
    id: str
    router: RouterInfo
    answer: LocalAnswer | None = None


class _ModelList(_Wire):
    data: tuple[ModelInfo, ...]


class ErrorObject(_Wire):
    """The inside of ``{"error": {...}}``, in a response or in a stream."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


M = TypeVar("M", bound=BaseModel)


def answer_from(response: httpx.Response) -> Answer:
    """Return the answer that a chat completion holds. Raises InvalidResponse."""
    body = json_object(response)
    wire = validated(_ChatCompletion, body, request_id(response))
    if not wire.choices:
        raise InvalidResponse(
            "the response has no choices", body=body, request_id=request_id(response)
        )
    message = wire.choices[0].message
    return Answer(
        text=message.content or "",
        router=wire.router,
        usage=wire.usage,
        finish_reason=wire.choices[0].finish_reason,
        model=wire.model or "",
        id=wire.id or "",
        request_id=request_id(response),
        tool_calls=message.tool_calls or (),
        raw=body,
    )


def decision_from(response: httpx.Response) -> Decision:
    """Return the decision that `POST /v1/route` made. Raises InvalidResponse."""
    body = json_object(response)
    wire = validated(_RouteDecision, body, request_id(response))
    return Decision(
        id=wire.id,
        router=wire.router,
        answer=wire.answer,
        request_id=request_id(response),
        raw=body,
    )


def feedback_from(response: httpx.Response) -> Feedback:
    """Return how `POST /v1/feedback` was taken. Raises InvalidResponse."""
    return validated(Feedback, json_object(response), request_id(response))


def models_from(response: httpx.Response) -> tuple[ModelInfo, ...]:
    """Return what `GET /v1/models` lists. Raises InvalidResponse."""
    return validated(_ModelList, json_object(response), request_id(response)).data


def health_from(response: httpx.Response) -> Health:
    """Return a probe's answer; its status decides, whatever the body is."""
    body = _parsed(response)
    return Health(
        ok=response.is_success,
        status_code=response.status_code,
        raw=body if isinstance(body, dict) else {},
    )


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the body as a JSON object. Raises InvalidResponse when it is something else."""
    body = _parsed(response)
    if isinstance(body, dict):
        return body
    raise InvalidResponse(
        f"expected a JSON object from {response.url}, got {_excerpt(response)!r}; "
        "is base_url the address of the gateway?",
        body=body,
        request_id=request_id(response),
    )


def validated(model: type[M], body: Mapping[str, Any], request: str | None) -> M:
    """Return `body` as `model`. Raises InvalidResponse that names the first wrong field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        hint = "; is base_url the address of a seek-stronger gateway?" if field == "router" else ""
        raise InvalidResponse(
            f"the response's `{field}` is not as expected: {first['msg']}{hint}",
            body=body,
            request_id=request,
        ) from None


def status_error(response: httpx.Response) -> APIStatusError:
    """Return the error for a response that is not a success; its body must have been read."""
    body = _parsed(response)
    error = error_object(body)
    if error is None:
        shown = f": {excerpt!r}" if (excerpt := _excerpt(response)) else ""
        error = ErrorObject(message=f"no error object in the response{shown}")
    return error_class(response.status_code, error.code)(
        f"{error.message} ({_details(response, error)})",
        status_code=response.status_code,
        type=error.type,
        param=error.param,
        code=error.code,
        retry_after=retry_after(response.headers),
        request_id=request_id(response),
        body=body,
    )


def error_object(body: Any) -> ErrorObject | None:
    """Return the error that `body` holds, OpenAI's shape; None when there is none."""
    inside = body.get("error") if isinstance(body, dict) else None
    if not isinstance(inside, dict):
        return None
    texts = {
        name: str(value)  # some servers put a number in `code`
        for name, value in inside.items()
        if isinstance(value, str | int) and name in ErrorObject.model_fields
    }
    return ErrorObject(**{"message": "the gateway gave no message", **texts})


def connection_error(error: httpx.RequestError, base_url: str) -> RouterClientError:
    """Return our error for one of the transport's."""
    kind = type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return APITimeoutError(
            f"{kind}: no response from {base_url} in time; "
            "raise `timeout`, or see whether the gateway is overloaded"
        )
    detail = f": {error}" if str(error) else ""
    hint = "; is the gateway running there?" if isinstance(error, httpx.ConnectError) else ""
    return APIConnectionError(f"{kind} while asking {base_url}{detail}{hint}")


def request_id(response: httpx.Response) -> str | None:
    """Return the gateway's `X-Request-Id`."""
    value: str | None = response.headers.get("x-request-id")
    return value


def _details(response: httpx.Response, error: ErrorObject) -> str:
    parts = [f"HTTP {response.status_code}"]
    if error.param is not None:
        parts.append(f"param {error.param}")
    if (asked := request_id(response)) is not None:
        parts.append(f"request {asked}")
    return ", ".join(parts)


def _parsed(response: httpx.Response) -> Any:
    """Return the body as JSON, or as text where it is not."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return response.text


def _excerpt(response: httpx.Response) -> str:
    text = response.text.strip()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
