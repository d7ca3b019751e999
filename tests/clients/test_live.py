"""Against a server that really listens: real chunks, real cuts, real disconnects."""

from __future__ import annotations

import socket

import httpx
import pytest
from router_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncRouterClient,
    RouterClient,
    StreamInterrupted,
)

from .conftest import LiveGateway
from .faces import Face

WAIT = 10  # seconds; only a failing test waits this long


def test_ask_and_route(face: Face, live: LiveGateway) -> None:
    assert face.call(live.url, "ask", "Hi").text == "echo: Hi"
    assert face.call(live.url, "route", "Hi").router.reason == "uncertain"


def test_a_stream_byte_by_byte(face: Face, live: LiveGateway) -> None:
    went = face.stream(live.url)
    assert went.error is None
    assert went.pieces == ["Hel", "lo"]
    assert went.stream.request_id == "live-1"


def test_the_connection_is_kept_after_a_stream(live: LiveGateway) -> None:
    connections: list[str] = []

    def trace(name: str, _: object) -> None:
        if name == "connection.connect_tcp.started":
            connections.append(name)

    class Traced(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            request.extensions["trace"] = trace
            return super().handle_request(request)

    with RouterClient(live.url, transport=Traced()) as client:
        for _ in range(3):
            with client.stream("Hi") as stream:
                assert "".join(stream) == "Hello"
    assert len(connections) == 1


@pytest.mark.parametrize("question", ["cut", "fade"])
def test_a_cut_stream_raises(face: Face, live: LiveGateway, question: str) -> None:
    went = face.stream(live.url, prompt=question)
    assert went.pieces == ["Hel"]
    assert isinstance(went.error, StreamInterrupted)
    assert went.error.text == "Hel"


def test_a_stalled_stream_raises(face: Face, live: LiveGateway) -> None:
    went = face.stream(live.url, prompt="stall", timeout=0.2)
    assert went.pieces == ["Hel"]
    assert isinstance(went.error, StreamInterrupted)


def test_leaving_a_stream_stops_the_gateway_s_work(live: LiveGateway) -> None:
    live.stopped.clear()
    with RouterClient(live.url) as client:
        with client.stream("endless") as stream:
            assert next(stream) == "and "
        assert live.stopped.wait(WAIT)


async def test_leaving_an_async_stream_stops_the_gateway_s_work(live: LiveGateway) -> None:
    live.stopped.clear()
    async with AsyncRouterClient(live.url) as client:
        async with client.stream("endless") as stream:
            assert await anext(stream) == "and "
        assert live.stopped.wait(WAIT)


def test_an_error_in_the_block_closes_the_stream_too(live: LiveGateway) -> None:
    live.stopped.clear()
    with RouterClient(live.url) as client:
        with pytest.raises(KeyError), client.stream("endless"):
            raise KeyError("the user's own")
        assert live.stopped.wait(WAIT)


def test_nobody_listens(face: Face) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(APIConnectionError, match=f"while asking {url}"):
            face.call(url, "ask", "Hi", client={"max_retries": 0})


def test_nobody_answers(face: Face) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(APITimeoutError):
            face.call(url, "ask", "Hi", timeout=0.1)


def test_a_proxy_in_the_environment_is_not_used_for_this_machine(
    face: Face, live: LiveGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert face.call(live.url, "ask", "Hi").text == "echo: Hi"


def test_a_client_that_was_closed(live: LiveGateway) -> None:
    client = RouterClient(live.url)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.ask("Hi")
