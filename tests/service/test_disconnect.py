"""A client that goes away stops the work done for it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.scripted import (
    LOCAL_STREAM,
    QUESTION,
    REMOTE_STREAM,
    ScriptedPipeline,
    forever,
    make_app,
    remote_chunk,
    serving,
)


def post(address: str, **fields: Any) -> socket.socket:
    """Send a question over a socket of our own."""
    body = json.dumps({**QUESTION, **fields}).encode()
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname, parts.port), 5)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, "it did not happen within 5 s"
        time.sleep(0.005)


@pytest.mark.parametrize("fields", [{}, {"temperature": 1}, {"stream": True}])
def test_gone_before_the_decision(fields: dict[str, Any]) -> None:
    pipeline = ScriptedPipeline(before=forever, events=[forever])
    app = make_app(pipeline)
    with serving(app) as address:
        connection = post(address, **fields)
        wait_until(lambda: bool(pipeline.queries))
        assert not pipeline.stopped.is_set()
        connection.close()
        assert pipeline.stopped.wait(5)
        wait_until(lambda: app.state.gateway.in_flight == 0)
        wait_until(lambda: 'status="499"' in httpx.get(f"{address}/metrics").text)


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM])
def test_gone_in_the_middle_of_a_stream(events: Any) -> None:
    pipeline = ScriptedPipeline(events=[*events[:2], forever])
    app = make_app(pipeline)
    with serving(app) as address:
        connection = post(address, stream=True)
        received = b""
        while b"data: " not in received:
            received += connection.recv(4096)
        assert not pipeline.stopped.is_set()
        connection.close()
        assert pipeline.stopped.wait(5)
        wait_until(lambda: app.state.gateway.in_flight == 0)


def test_gone_while_the_gateway_can_not_send() -> None:
    """A client that does not read, then leaves: the generator is given up where it stands."""
    much = remote_chunk({"content": "x" * 100_000})
    events = [*REMOTE_STREAM[:2], *[much] * 200, forever]
    pipeline = ScriptedPipeline(events=events)
    app = make_app(pipeline)
    with serving(app) as address:
        connection = post(address, stream=True)
        assert connection.recv(16)
        connection.close()
        assert pipeline.stopped.wait(5)
        wait_until(lambda: app.state.gateway.in_flight == 0)


def test_one_of_two_goes_and_the_other_gets_the_answer() -> None:
    async def a_moment() -> None:
        while not gone:
            await asyncio.sleep(0.005)

    gone: list[bool] = []
    pipeline = ScriptedPipeline(before=a_moment)
    app = make_app(pipeline)
    with serving(app) as address:
        leaving, staying = post(address), post(address)
        wait_until(lambda: "router" in repr(app.state) or bool(pipeline.queries))
        leaving.close()
        gone.append(True)
        received = b""
        while "Grüße".encode() not in received:
            received += staying.recv(4096)
        staying.close()
    assert len(pipeline.queries) == 1
    assert not pipeline.stopped.is_set()


def test_a_client_that_stays_gets_its_answer_and_the_connection_lives_on() -> None:
    pipeline = ScriptedPipeline(events=[replace(LOCAL_STREAM[0]), *LOCAL_STREAM[1:]])
    with serving(make_app(pipeline)) as address, httpx.Client(base_url=address) as client:
        for stream in (False, True, False):
            body = {**QUESTION, "stream": stream}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
