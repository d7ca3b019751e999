"""Everything that can go wrong between a question and its answer.

RouterClientError
├── APIConnectionError              no response: refused, reset, name unknown, TLS
├── APITimeoutError                 no response in time
├── InvalidResponse                 a success that is not a gateway's answer
├── StreamInterrupted               a stream ended before its answer was complete
└── APIStatusError                  the gateway answered with an error
    ├── BadRequest              400 the request is wrong; `param` says where
    │   └── ContextLengthExceeded   the prompt does not fit
    ├── AuthenticationError     401 the API key is missing or unknown
    ├── PermissionDenied        403 the API key may not do this
    ├── NotFound                404 there is no such path or model
    ├── RateLimited             429 too many requests; `retry_after`
    ├── UpstreamFailed          502 the remote model could not answer
    ├── Busy                    503 the gateway is full or not ready; `retry_after`
    └── ServerError             other 5xx

Arguments that can't be sent raise ValueError or TypeError before anything is sent.
"""

from __future__ import annotations

from typing import Any


class RouterClientError(Exception):
    """Base of all errors that this package raises for what happened outside of it."""


class APIConnectionError(RouterClientError):
    """No response: the connection was refused or reset, or the name is unknown."""


class APITimeoutError(RouterClientError):
    """No response in time."""


class InvalidResponse(RouterClientError):
    """The status says success, but the body is not a gateway's answer. `body` is what came."""

    def __init__(self, message: str, *, body: Any = None, request_id: str | None = None) -> None:
        super().__init__(message)
        self.body = body
        self.request_id = request_id


class StreamInterrupted(RouterClientError):
    """A stream ended before its answer was complete.

    `text` is what had arrived. `type`, `param` and `code` are those of the gateway's error event,
    and None when the stream broke without one.
    """

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.text = text
        self.type = type
        self.param = param
        self.code = code
        self.request_id = request_id


class APIStatusError(RouterClientError):
    """The gateway answered with an error.

    `type`, `param` and `code` are the error object's own; `body` is the parsed body (or its text);
    `retry_after` is how many seconds the gateway asks to wait. Each may be None.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int = 0,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.request_id = request_id
        self.body = body


class BadRequest(APIStatusError):
    """400: the request is wrong; `param` names the field."""


class ContextLengthExceeded(BadRequest):
    """400: the prompt does not fit the model's context."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or unknown."""


class PermissionDenied(APIStatusError):
    """403: the API key may not do this."""


class NotFound(APIStatusError):
    """404: there is no such path or model."""


class RateLimited(APIStatusError):
    """429: too many requests; `retry_after` is in seconds."""


class UpstreamFailed(APIStatusError):
    """502: the remote model could not answer."""


class Busy(APIStatusError):
    """503: the gateway is full or not ready; `retry_after` is in seconds."""


class ServerError(APIStatusError):
    """500, 504 and other 5xx: the gateway failed."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequest,
    401: AuthenticationError,
    403: PermissionDenied,
    404: NotFound,
    429: RateLimited,
    502: UpstreamFailed,
    503: Busy,
}


def error_class(status_code: int, code: str | None) -> type[APIStatusError]:
    """Return the class for a status and the error object's code."""
    if status_code == 400 and code == "context_length_exceeded":
        return ContextLengthExceeded
    if status_code >= 500:
        return _BY_STATUS.get(status_code, ServerError)
    return _BY_STATUS.get(status_code, APIStatusError)
