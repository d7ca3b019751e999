"""What `router serve` takes before it is a request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from router.cli import protocol
from router.cli.protocol import HEAD_BYTES, HEAD_FIELDS, GuardedProtocol

START = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers at once, without a look at the body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def port() -> Iterator[int]:
    config = uvicorn.Config(
        app, port=0, http=GuardedProtocol, lifespan="off", log_level="error", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def answer(connection: socket.socket) -> bytes:
    """One answer of the application's."""
    received = b""
    while b"hello" not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        yield connection


def test_a_usual_request(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(START + b"X-Long: " + b"x" * 8000 + b"\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 200 ")


def test_byte_by_byte_and_two_at_once(connection: socket.socket) -> None:
    for byte in START + b"\r\n":
        connection.sendall(bytes([byte]))
    assert answer(connection).startswith(b"HTTP/1.1 200 ")
    connection.sendall((START + b"\r\n") * 2)
    received = b""
    while received.count(b"hello") < 2:
        piece = connection.recv(65536)
        assert piece, received
        received += piece


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"X: " + b"x" * HEAD_BYTES + b"\r\n\r\n", id="one long header"),
        pytest.param(b"X: " + b"x" * 10 * HEAD_BYTES, id="one without an end"),
        pytest.param(b"x" * 2 * HEAD_BYTES, id="a name without an end"),
        pytest.param((b"X: " + b"x" * 1000 + b"\r\n") * 90, id="many long ones"),
        pytest.param(b"X: x\r\n" * (HEAD_FIELDS + 1) + b"\r\n", id="too many"),
    ],
)
def test_headers_that_are_too_large(connection: socket.socket, head: bytes) -> None:
    with contextlib.suppress(OSError):  # it may have hung up by then
        connection.sendall(START + head)
    received = all_of(connection)
    assert received == b"" or received.startswith(b"HTTP/1.1 431 ")


def test_it_says_why(connection: socket.socket) -> None:
    connection.sendall(START + b"X: x\r\n" * (HEAD_FIELDS + 1) + b"\r\n")
    received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b'"code": "headers_too_large"' in received
    assert received.count(b"HTTP/1.1") == 1


def test_a_url_that_is_too_long(connection: socket.socket) -> None:
    connection.sendall(b"GET /" + b"x" * (HEAD_BYTES + 1) + b" HTTP/1.1\r\n\r\n")
    assert all_of(connection).startswith(b"HTTP/1.1 431 ")


def test_what_is_no_http(connection: socket.socket) -> None:
    connection.sendall(b"hello there\r\n\r\n")
    assert all_of(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("sent", [b"", START, START[:10]])
def test_a_head_that_does_not_come(port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
        assert all_of(connection) == b""


def test_a_second_head_that_does_not_come(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(START + b"\r\n")
        answer(connection)
        connection.sendall(START)
        assert all_of(connection) == b""


def test_a_body_that_goes_on_after_the_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(START + b"Content-Length: 1000000\r\n\r\n")
        answer(connection)
        connection.sendall(b"x" * 100)
        assert all_of(connection) == b""


def test_a_body_that_ends_after_the_answer(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(START + b"Content-Length: 4\r\n\r\n")
        answer(connection)
        connection.sendall(b"xxxx" + START + b"\r\n")
        answer(connection)
