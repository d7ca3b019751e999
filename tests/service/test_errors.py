"""Every failure has OpenAI's shape, and none tells what is nobody's business."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from router.errors import (
    CapabilityError,
    ConfigError,
    EngineBusy,
    EngineDown,
    EngineError,
    PromptTooLong,
    TemplateRefused,
    UpstreamBusy,
    UpstreamRejected,
    UpstreamUnavailable,
)
from tests.service.scripted import (
    LOCAL_STREAM,
    QUESTION,
    ScriptedPipeline,
    client_of,
    make_app,
    running,
)

SECRET = "the user's own secret question"


async def ask(failure: Exception, path: str = "/v1/chat/completions") -> httpx.Response:
    async with client_of(ScriptedPipeline(failure)) as client:
        return await client.post(path, json=QUESTION)


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    assert isinstance(error, dict)
    return error


MALFORMED = "invalid_request_error"
EXPECTED: list[tuple[Exception, int, dict[str, str | None]]] = [
    (
        PromptTooLong(5000, 4096),
        400,
        {"type": MALFORMED, "code": "context_length_exceeded", "param": "messages"},
    ),
    (
        TemplateRefused("roles must alternate"),
        400,
        {"type": MALFORMED, "code": "conversation_refused", "param": "messages"},
    ),
    (
        CapabilityError("tools", "tool calls"),
        400,
        {"type": MALFORMED, "code": "unsupported_by_local_model", "param": "tools"},
    ),
    (
        UpstreamRejected(422, {"detail": "odd"}),
        422,
        {"type": MALFORMED, "code": "upstream_rejected", "param": None},
    ),
    (
        UpstreamUnavailable("refused"),
        502,
        {"type": "server_error", "code": "upstream_unavailable", "param": None},
    ),
    (
        UpstreamBusy("too much at once", 1.0),
        503,
        {"type": "server_error", "code": "upstream_busy", "param": None},
    ),
    (
        EngineBusy(64, 2.2),
        503,
        {"type": "server_error", "code": "engine_busy", "param": None},
    ),
    (
        EngineDown("killed"),
        503,
        {"type": "server_error", "code": "engine_down", "param": None},
    ),
    (
        EngineError("step failed"),
        503,
        {"type": "server_error", "code": "engine_failed", "param": None},
    ),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
@pytest.mark.parametrize(("failure", "status", "fields"), EXPECTED)
async def test_each_error_of_the_router(
    failure: Exception, status: int, fields: dict[str, str | None], path: str
) -> None:
    response = await ask(failure, path)
    error = error_of(response)
    assert response.status_code == status
    assert error.pop("message")
    assert error == fields


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [(EngineBusy(64, 2.2), "3"), (EngineBusy(64, 0.0), "1"), (EngineDown("killed"), "2")],
)
async def test_what_passes_says_when_to_try_again(failure: Exception, seconds: str) -> None:
    assert (await ask(failure)).headers["retry-after"] == seconds


async def test_an_upstreams_error_is_passed_on_as_it_came() -> None:
    body: dict[str, object] = {"error": {"message": "no such tool", "code": "x", "extra": 1}}
    response = await ask(UpstreamRejected(404, body))
    assert response.status_code == 404
    assert response.json() == body


@pytest.mark.parametrize("failure", [ZeroDivisionError(SECRET), ConfigError(SECRET)])
async def test_anything_else_is_a_500_with_an_id_that_the_log_has(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    response = await ask(failure)
    assert response.status_code == 500
    error = error_of(response)
    assert error["code"] == "internal_error"
    assert response.headers["x-request-id"] in error["message"]
    assert SECRET not in response.text
    record = next(record for record in caplog.records if record.message == "internal error")
    assert record.exc_info is not None
    assert record.exc_info[0] is type(failure)


async def test_an_unexpected_error_inside_a_stream_cuts_it() -> None:
    events = [*LOCAL_STREAM[:2], ZeroDivisionError(SECRET)]
    async with client_of(ScriptedPipeline(events=events)) as client:
        with pytest.raises(ConnectionAbortedError, match="cut by an internal error") as caught:
            await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/gpt-6", 404, "model_not_found"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, code: str) -> None:
    async with client_of() as client:
        response = await client.request(method, path)
    assert response.status_code == status
    assert error_of(response)["code"] == code


async def test_405_says_what_is_allowed() -> None:
    async with client_of() as client:
        response = await client.get("/v1/chat/completions")
    assert response.headers["allow"] == "POST"
    assert "POST" in error_of(response)["message"]


async def test_what_the_framework_itself_finds_wrong_is_a_400_too() -> None:
    app = make_app()

    @app.get("/number/{n}")
    async def number(n: int) -> int:
        return n

    async with running(app) as client:
        response = await client.get("/number/seven")
    assert response.status_code == 400
    assert error_of(response)["param"] == "n"


async def test_a_decision_can_not_be_streamed() -> None:
    async with client_of() as client:
        response = await client.post("/v1/route", json={**QUESTION, "stream": True})
    assert response.status_code == 400
    assert error_of(response)["param"] == "stream"
