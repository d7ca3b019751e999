from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import httpx
import pytest
import router_client
from router_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequest,
    Busy,
    ContextLengthExceeded,
    InvalidResponse,
    NotFound,
    PermissionDenied,
    RateLimited,
    RouterClientError,
    ServerError,
    StreamInterrupted,
    UpstreamFailed,
    _errors,
)
from router_client._response import connection_error

from . import wire
from .faces import Face

NO_RETRIES: dict[str, Any] = {"client": {"max_retries": 0}}


def own_errors() -> dict[str, type[Exception]]:
    return {
        name: value
        for name, value in vars(_errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }


def transport_errors(kind: type[httpx.RequestError]) -> set[type[httpx.RequestError]]:
    below = {leaf for child in kind.__subclasses__() for leaf in transport_errors(child)}
    return {kind} | below


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, None, BadRequest),
        (400, "context_length_exceeded", ContextLengthExceeded),
        (401, None, AuthenticationError),
        (403, None, PermissionDenied),
        (404, None, NotFound),
        (429, None, RateLimited),
        (500, None, ServerError),
        (502, None, UpstreamFailed),
        (503, None, Busy),
        (504, None, ServerError),
        (599, None, ServerError),
        (307, None, APIStatusError),
        (422, None, APIStatusError),
    ],
)
def test_each_status_has_its_class(
    face: Face, status: int, code: str | None, kind: type[APIStatusError]
) -> None:
    handler = wire.answering(wire.error("no", code=code), status)
    with pytest.raises(APIStatusError) as caught:
        face.call(handler, "ask", "question", **NO_RETRIES)
    assert type(caught.value) is kind
    assert caught.value.status_code == status


def test_an_error_carries_all_that_the_gateway_told(face: Face) -> None:
    body = wire.error("too hot", type="invalid_request_error", param="temperature", code="range")
    with pytest.raises(BadRequest) as caught:
        face.call(wire.answering(body, 400, x_request_id="req-1"), "ask", "question")
    error = caught.value
    assert str(error) == "too hot (HTTP 400, param temperature, request req-1)"
    assert (error.type, error.param, error.code) == (
        "invalid_request_error",
        "temperature",
        "range",
    )
    assert (error.request_id, error.body, error.retry_after) == ("req-1", body, None)


@pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, Busy)])
def test_retry_after_in_seconds(face: Face, status: int, kind: type[APIStatusError]) -> None:
    handler = wire.answering(wire.error(), status, retry_after="9")
    with pytest.raises(kind) as caught:
        face.call(handler, "ask", "question", **NO_RETRIES)
    assert caught.value.retry_after == 9.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>Bad gateway</html>", "'<html>Bad gateway</html>' (HTTP 502)"),
        (b"x" * 500, f"'{'x' * 200}...' (HTTP 502)"),
        (b"", "no error object in the response (HTTP 502)"),
        (b'{"detail": "x"}', "no error object in the response"),
        (b'{"error": "text"}', "no error object in the response"),
        (b'{"error": {"code": 17}}', "the gateway gave no message (HTTP 502)"),
        (b"[" * 100_000, "no error object in the response"),
    ],
)
def test_a_body_that_is_not_the_gateways(face: Face, content: bytes, message: str) -> None:
    with pytest.raises(UpstreamFailed, match=re.escape(message)):
        face.call(lambda _: httpx.Response(502, content=content), "ask", "question", **NO_RETRIES)


def test_a_number_as_code_is_kept_as_text(face: Face) -> None:
    with pytest.raises(BadRequest) as caught:
        face.call(wire.answering(wire.error(code=17), 400), "ask", "question")
    assert caught.value.code == "17"


def test_errors_of_opening_a_stream_are_the_same(face: Face) -> None:
    went = face.stream(wire.answering(wire.error("no", param="stop"), 400))
    assert isinstance(went.error, BadRequest)
    assert went.error.param == "stop"


@pytest.mark.parametrize("kind", sorted(transport_errors(httpx.RequestError), key=str))
def test_every_error_of_the_transport_is_mapped(face: Face, kind: type[httpx.RequestError]) -> None:
    expected = APITimeoutError if issubclass(kind, httpx.TimeoutException) else APIConnectionError
    with pytest.raises(expected, match=kind.__name__) as caught:
        face.call(wire.in_turn(kind("why")), "ask", "question", **NO_RETRIES)
    assert isinstance(caught.value.__cause__, kind)


def test_an_error_without_words_still_says_where() -> None:
    message = str(connection_error(httpx.ReadError(""), "http://gateway"))
    assert message == "ReadError while asking http://gateway"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, int] = {}
    for line in (_errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+Error|[A-Z][A-Za-z]+)(  |$)", line):
            drawn[found[2]] = len(found[1]) // 4
    depths = {name: len(kind.__mro__) - 4 for name, kind in own_errors().items()}
    assert drawn == depths


def test_every_error_is_exported_and_has_a_sentence() -> None:
    for name, kind in own_errors().items():
        assert name in router_client.__all__
        assert issubclass(kind, RouterClientError)
        assert kind.__doc__


@pytest.mark.parametrize(
    "error",
    [
        Busy("full", status_code=503, retry_after=2.0, request_id="r", body={"a": 1}),
        StreamInterrupted("cut", text="Hel", code="c"),
        InvalidResponse("odd", body="x", request_id="r"),
        APIConnectionError("refused"),
    ],
)
def test_errors_survive_pickling(error: RouterClientError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
