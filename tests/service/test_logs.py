"""Logs as an operator collects them: JSON only, each line with the request that it is about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.errors import EngineBusy, UpstreamUnavailable
from service import logs
from tests.service.scripted import LOCAL_STREAM, QUESTION, ScriptedPipeline, client_of

SERVER = """
from contextlib import closing
from router.cli.server import address_of, bind, run
from tests.service.scripted import make_app

with closing(bind("127.0.0.1", 0)) as bound:
    app = make_app(ledger="off")
    run(app, bound, lambda: print(address_of(bound), flush=True), log_level="info")
"""


def test_all_that_a_server_logs_is_json() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as server:
        try:
            assert server.stdout is not None
            url = httpx.URL(server.stdout.readline().strip())
            assert url.port is not None
            with socket.create_connection((url.host, url.port)) as connection:
                connection.sendall(
                    b"no HTTP at all\r\n\r\n"
                )  # which the server itself complains of
                assert connection.recv(100).startswith(b"HTTP/1.1 400")
            told = {"X-Request-Id": "mine-1"}
            httpx.post(f"{url}/v1/chat/completions", json=QUESTION, headers=told, timeout=30)
            server.send_signal(signal.SIGINT)
            _, text = server.communicate(timeout=30)
        finally:
            server.kill()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"time", "level", "logger", "event"} <= set.intersection(*map(set, lines))
    assert {line["logger"].split(".")[0] for line in lines} == {"uvicorn", "service"}
    (request,) = [line for line in lines if line["event"] == "request"]
    assert (request["request_id"], request["status"]) == ("mine-1", 200)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What all of the gateway's own code writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    own = [logging.getLogger(name) for name in ("router", "service")]
    for logger in own:
        logger.addHandler(handler)
    yield stream
    for logger in own:
        logger.removeHandler(handler)


async def test_what_is_done_for_a_request_is_logged_under_its_id(log: io.StringIO) -> None:
    everybody = asyncio.Barrier(5)

    async def work() -> None:
        await everybody.wait()
        logging.getLogger("router.pipeline").warning("working")

    async with client_of(ScriptedPipeline(before=work), ledger="off") as client:

        async def ask(n: int) -> None:
            told = {"X-Request-Id": f"id-{n}"}
            await client.post("/v1/chat/completions", json=QUESTION | {"seed": n}, headers=told)

        await asyncio.gather(*map(ask, range(5)))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    for event in ("working", "request"):
        ids = [line["request_id"] for line in lines if line["event"] == event]
        assert sorted(ids) == [f"id-{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("status", "method", "path", "sent"),
    [
        (400, "POST", "/v1/chat/completions", {"json": {"messages": []}}),
        (401, "GET", "/metrics", {"headers": {"X-Forwarded-For": "203.0.113.9"}}),
        (403, "GET", "/metrics", {"headers": {"Origin": "https://elsewhere.example"}}),
        (404, "GET", "/nowhere", {}),
        (405, "PUT", "/v1/chat/completions", {}),
        (415, "POST", "/v1/chat/completions", {"content": "text"}),
        (500, "POST", "/v1/chat/completions", {"json": QUESTION | {"seed": 500}}),
        (502, "POST", "/v1/chat/completions", {"json": QUESTION | {"seed": 502}}),
        (503, "POST", "/v1/chat/completions", {"json": QUESTION | {"seed": 503}}),
        (503, "POST", "/v1/chat/completions", {"json": QUESTION | {"seed": 503, "stream": True}}),
    ],
)
async def test_each_error_names_the_request(
    status: int, method: str, path: str, sent: dict[str, Any]
) -> None:
    faults = {500: ValueError(), 502: UpstreamUnavailable("gone"), 503: EngineBusy(1, 1.0)}
    fault = faults.get(status)
    pipeline = ScriptedPipeline() if fault is None else ScriptedPipeline(fault, events=[fault])
    headers = {**sent.get("headers", {}), "X-Request-Id": "mine-2"}
    async with client_of(pipeline, ledger="off") as client:
        reply = await client.request(method, path, **{**sent, "headers": headers})
    assert reply.status_code == status
    assert reply.headers["X-Request-Id"] == "mine-2"


async def test_a_stream_that_breaks_off_has_named_the_request_before() -> None:
    pipeline = ScriptedPipeline(events=[*LOCAL_STREAM[:2], UpstreamUnavailable("gone")])
    async with client_of(pipeline, ledger="off") as client:
        body = QUESTION | {"stream": True}
        told = {"X-Request-Id": "mine-3"}
        reply = await client.post("/v1/chat/completions", json=body, headers=told)
    assert "error" in reply.text
    assert reply.headers["X-Request-Id"] == "mine-3"
