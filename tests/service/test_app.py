"""The application's life, request ids and logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from router.config import Settings
from router.errors import ModelError, UpstreamUnavailable
from service import logs
from service.app import create_app
from tests.service.scripted import (
    LOCAL_STREAM,
    QUESTION,
    ScriptedPipeline,
    client_of,
    forever,
    make_app,
    running,
)


async def test_the_lifespan_starts_and_closes_the_pipeline() -> None:
    pipeline = ScriptedPipeline(closed=True)
    async with client_of(pipeline):
        assert not pipeline.closed
    assert pipeline.closed


async def test_what_was_begun_is_closed_when_the_start_fails() -> None:
    class Broken(ScriptedPipeline):
        async def start(self) -> None:
            raise ModelError("no such file")

    pipeline = Broken()
    with pytest.raises(ModelError, match="no such file"):
        async with client_of(pipeline):
            raise AssertionError("it started")
    assert pipeline.closed


async def test_closing_stops_what_is_under_way() -> None:
    pipeline = ScriptedPipeline(before=forever)
    app = make_app(pipeline)
    async with running(app) as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
        while not pipeline.queries:
            await asyncio.sleep(0)
        await app.state.gateway.close()
        response = await asking
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "stopping"
    assert pipeline.stopped.is_set()


async def test_a_request_id_is_made() -> None:
    async with client_of() as client:
        ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2:3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("é", False)],
)
async def test_a_sane_request_id_is_kept(given: str, kept: bool) -> None:
    async with client_of() as client:
        response = await client.get("/healthz", headers={b"X-Request-Id": given.encode()})
    assert (response.headers["x-request-id"] == given) is kept


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the gateway's own handler writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.getLogger("service")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def lines(log: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


SECRET = "my secret diagnosis"


async def test_each_request_is_one_line_without_its_prompt_or_answer(log: io.StringIO) -> None:
    body = {**QUESTION, "messages": [{"role": "user", "content": SECRET}]}
    async with client_of() as client:
        for stream in (False, True):
            await client.post(
                "/v1/chat/completions",
                json={**body, "stream": stream},
                headers={"X-Request-Id": "id-1"},
            )
        await client.post("/v1/chat/completions", json={**body, SECRET: 1})
        await client.get("/healthz")
    whole, streamed, refused = lines(log)
    assert whole["request_id"] == streamed["request_id"] == "id-1"
    assert whole["event"] == "request"
    assert whole["method"] == "POST"
    assert whole["path"] == "/v1/chat/completions"
    assert whole["status"] == 200
    assert whole["route"] == "local"
    assert whole["p_correct"] == 0.83
    assert (whole["cache"], streamed["cache"]) == ("miss", "hit")
    assert refused["status"] == 400
    assert SECRET not in log.getvalue()
    assert "Grüße" not in log.getvalue()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_internal_error_is_logged_with_its_place_and_without_its_text(
    log: io.StringIO, stream: bool
) -> None:
    failure = ValueError(SECRET)
    pipeline = ScriptedPipeline(failure, events=[*LOCAL_STREAM[:2], failure])
    async with client_of(pipeline) as client:
        try:
            await client.post("/v1/chat/completions", json={**QUESTION, "stream": stream})
        except ConnectionAbortedError:
            assert stream
    error = lines(log)[0]
    assert error["event"] == "internal error"
    assert error["level"] == "error"
    assert error["error"] == "builtins.ValueError"
    assert "scripted.py" in str(error["at"])
    assert SECRET not in log.getvalue()


async def test_a_cut_stream_says_so_in_the_log(log: io.StringIO) -> None:
    pipeline = ScriptedPipeline(events=[*LOCAL_STREAM[:2], UpstreamUnavailable("gone")])
    async with client_of(pipeline) as client:
        await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
    assert lines(log)[0]["cut"] == "UpstreamUnavailable"


def test_logs_are_set_up_unless_somebody_else_did(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    own = [logging.getLogger(name) for name in ("service", "router")]
    before = [list(logger.handlers) for logger in own]
    logs.configure("info")
    assert [logger.handlers for logger in own] == before
    monkeypatch.setattr(root, "handlers", [])
    try:
        logs.configure("debug")
        logs.configure("debug")
        assert [len(logger.handlers) for logger in own] == [1, 1]
        assert own[0].level == logging.DEBUG
    finally:
        for logger, handlers in zip(own, before, strict=True):
            logger.handlers[:] = handlers


def test_a_log_line_outside_of_a_request_has_no_id() -> None:
    record = logging.LogRecord("service.x", logging.INFO, "", 0, "hello %s", ("you",), None)
    line = json.loads(logs.JsonFormatter().format(record))
    assert line["event"] == "hello you"
    assert "request_id" not in line


def test_an_application_can_be_made_without_starting_anything() -> None:
    assert create_app(Settings()).title == "seek-stronger"
