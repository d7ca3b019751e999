"""Every failure as an OpenAI-shaped error.

| what happened                     | status | code                       |
| --------------------------------- | ------ | -------------------------- |
| the request is malformed          | 400    | says what is wrong         |
| PromptTooLong                     | 400    | context_length_exceeded    |
| TemplateRefused                   | 400    | conversation_refused       |
| CapabilityError                   | 400    | unsupported_by_local_model |
| no valid API key                  | 401    | invalid_api_key            |
| the key's holder may not do this  | 403    | key_forbids, admin_key_needed |
| not from this machine             | 403    | local_only                 |
| from a web page that may not ask  | 403    | forbidden_origin, forbidden_host |
| no such URL, no such model        | 404    | unknown_url, model_not_found |
| wrong method                      | 405    | method_not_allowed         |
| the body comes too slowly         | 408    | request_timeout            |
| ArtifactError on a reload         | 409    | calibration_unusable       |
| body too large, not JSON          | 413, 415 | request_too_large, unsupported_media_type |
| BudgetSpent                       | 429    | insufficient_quota         |
| a key's limit is reached          | 429    | rate_limit_exceeded        |
| UpstreamRejected                  | the upstream's | the upstream's     |
| UpstreamUnavailable               | 502    | upstream_unavailable       |
| UpstreamBusy                      | 503    | upstream_busy              |
| the gateway is stopping           | 503    | stopping                   |
| EngineBusy, EngineDown            | 503    | engine_busy, engine_down   |
| another EngineError               | 503    | engine_failed              |
| anything else                     | 500    | internal_error             |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from router.errors import (
    BudgetSpent,
    CapabilityError,
    EngineBusy,
    EngineDown,
    EngineError,
    PromptTooLong,
    RouterError,
    TemplateRefused,
    UpstreamBusy,
    UpstreamRejected,
    UpstreamUnavailable,
)
from service.strict_json import StrictJSONResponse

STOPPING_SECONDS = 5
"""What a client is told to wait when the gateway stops: another one may have taken its place."""

ENGINE_RESTART_SECONDS = 2
"""What a client is told to wait while the engine restarts; the default model loads in about 1 s."""


class ApiError(Exception):
    """An answer that is an error: its status and the fields of OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = dict(headers or {})
        self._body = body

    def body(self) -> Mapping[str, Any]:
        """The JSON object that is sent."""
        if self._body is not None:
            return self._body
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        return StrictJSONResponse(dict(self.body()), self.status, headers=self.headers)


def bad_request(message: str, param: str | None, code: str = "invalid_value") -> ApiError:
    """Return the 400 for a request whose field `param` is wrong."""
    return ApiError(400, message, code=code, param=param)


def forbidden(message: str) -> ApiError:
    """Return the 403 for what was agreed otherwise with the key's holder."""
    return ApiError(403, message, code="key_forbids")


def model_not_found(name: str) -> ApiError:
    """Return the 404 for a model that is none of the three."""
    return ApiError(
        404,
        f"The model {name[:100]!r} does not exist here. Use 'auto' (routed by confidence), "
        "'local' (always the small model) or 'remote' (always the upstream).",
        code="model_not_found",
        param="model",
    )


def stopping() -> ApiError:
    """Return the 503 of a gateway that is about to stop; the connection is given up with it."""
    return ApiError(
        503,
        "The gateway is stopping.",
        code="stopping",
        kind="server_error",
        headers={"Retry-After": str(STOPPING_SECONDS), "Connection": "close"},
    )


def internal_error(request_id: str) -> ApiError:
    """Return the 500 that tells nothing but the id under which the log tells more."""
    return ApiError(
        500,
        f"The gateway failed to answer. Its log has the details under request id {request_id}.",
        code="internal_error",
        kind="server_error",
    )


def from_router_error(exc: RouterError) -> ApiError | None:
    """Return the HTTP face of a `RouterError`; None for one that is nobody's request's fault."""
    match exc:
        case EngineError():
            return _engine_error(exc)
        case CapabilityError():
            return bad_request(str(exc), exc.param, "unsupported_by_local_model")
        case UpstreamRejected():
            return _rejected(exc)
        case BudgetSpent():
            return _budget_spent(exc)
        case UpstreamUnavailable():
            busy = isinstance(exc, UpstreamBusy)
            status, code = (503, "upstream_busy") if busy else (502, "upstream_unavailable")
            return _unavailable(status, str(exc), code, retry_after=exc.retry_after)
    return None


def from_http_exception(exc: HTTPException, request: Request) -> ApiError:
    """Return the OpenAI shape of what the framework itself refuses."""
    where = f"{request.method} {request.url.path[:200]}"
    headers = dict(exc.headers or {})
    if exc.status_code == 404:
        message = f"There is no {where} here; /docs lists what there is."
        return ApiError(404, message, code="unknown_url")
    if exc.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        message = f"{where} is not allowed; use {allowed}."
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    return ApiError(exc.status_code, str(exc.detail), code="http_error", headers=headers)


def _engine_error(exc: EngineError) -> ApiError:
    match exc:
        case PromptTooLong():
            return bad_request(str(exc), "messages", "context_length_exceeded")
        case TemplateRefused():
            return bad_request(str(exc), "messages", "conversation_refused")
        case EngineBusy():
            return _unavailable(503, str(exc), "engine_busy", retry_after=exc.retry_after)
        case EngineDown():
            message = f"The local engine is not running: {exc}. It restarts by itself."
            return _unavailable(503, message, "engine_down", retry_after=ENGINE_RESTART_SECONDS)
    return _unavailable(503, str(exc), "engine_failed", retry_after=1)


def _unavailable(
    status: int, message: str, code: str, *, retry_after: float | None = None
) -> ApiError:
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return ApiError(status, message, code=code, kind="server_error", headers=headers)


def _budget_spent(exc: BudgetSpent) -> ApiError:
    message = f"You exceeded your current quota: {exc}. See GET /v1/budget."
    # OpenAI's clients repeat any other 429.
    headers = {"x-should-retry": "false"}
    code = "insufficient_quota"
    return ApiError(429, message, code=code, kind=code, headers=headers)


def _rejected(exc: UpstreamRejected) -> ApiError:
    body: Mapping[str, Any] | None = exc.body if isinstance(exc.body.get("error"), dict) else None
    return ApiError(exc.status, str(exc), code="upstream_rejected", body=body)
