"""What must not leave the machine does not: all that upstream, Redis and log get is looked at."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.e2e.conftest import Gateway
from tests.names_model import NAME, save_names_model
from tests.redis_server import RedisServer

SECRET = "zanzibar-4711"
MAILED = "quagga@example.org"
CARD = "4111 1111 1111 1111"
PRIVATE: list[dict[str, Any]] = [
    {"router": {"local_only": True}},
    {"router": {"local_only": True, "threshold": 1.0}},
    {"router": {"local_only": True, "uq": ["p_true"]}},
    {"router": {"local_only": True}, "stream": True},
    {"router": {"local_only": True, "threshold": 1.0, "stream_mode": "commit"}, "stream": True},
    {"router": {"local_only": True}, "logprobs": True, "temperature": 1.0, "seed": 1},
    {"router": {"local_only": True}, "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"model": "local", "router": {"local_only": True}},
]


class Capture(ThreadingHTTPServer):
    """An upstream that keeps all it gets."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Capture)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(str(self.headers).encode() + self.path.encode() + body)
        message = {"role": "assistant", "content": "Certainly."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        reply = json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def capture() -> Iterator[Capture]:
    with Capture() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, capture: Capture, redis: RedisServer
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("private")
    (folder / "rules.txt").write_text("email\n", encoding="utf-8")
    options = {
        "upstream": f"http://127.0.0.1:{capture.server_address[1]}/v1",
        "redis-url": redis.url,
        "ledger": "redis",
        "audit-rate": "1",
        "log-level": "debug",
        "local-only-rules": str(folder / "rules.txt"),
        "presidio-model": save_names_model(folder / "names"),
        "context": "512",
        "slots": "2",
    }
    gateway = Gateway(options, folder / "log")
    gateway.start()
    yield gateway
    gateway.stop()


def ask(gateway: Gateway, text: str, **fields: Any) -> httpx.Response:
    message = {"role": "user", "content": text}
    body = {"model": "auto", "messages": [message], "max_tokens": 6, **fields}
    return httpx.post(gateway.url + "/v1/chat/completions", json=body, timeout=60)


def test_nothing_private_leaves(gateway: Gateway, capture: Capture, redis: RedisServer) -> None:
    for i, fields in enumerate(PRIVATE):
        reply = ask(gateway, f"Repeat: {SECRET} {i}", **fields)
        assert reply.status_code == (400 if "tools" in fields else 200), reply.text
    ways: list[dict[str, Any]] = [{}, {"router": {"threshold": 1.0}}, {"stream": True}]
    for found in (MAILED, CARD, NAME):
        for i, fields in enumerate(ways):
            assert ask(gateway, f"Repeat: {found}, {i}", **fields).status_code == 200
        refused = ask(gateway, f"Repeat: {found}", model="remote")
        assert refused.json()["error"]["code"] == "kept_local"
        tool = {"type": "function", "function": {"name": "f", "description": f"Asks {found}"}}
        assert ask(gateway, "Use the tool.", tools=[tool]).status_code == 400

    # What is not private does leave: the upstream, the audit and Redis are there and work.
    for _ in range(2):
        public = ask(gateway, "Name a colour.", router={"threshold": 1.0})
        assert public.json()["router"]["route"] == "remote"
    kept = ask(gateway, "Name a fruit.", router={"threshold": 0.0})
    assert kept.json()["router"]["route"] == "local"
    assert gateway.stop() == 0  # after this, all that waited has been written

    sent = b"\n".join(capture.got)
    assert b"Name a colour." in sent
    client = Redis.from_url(redis.url)
    stored = b"\n".join(_everything(client))
    client.close()
    assert b"router:2:" in stored
    for place in (sent, stored, gateway.log.read_bytes()):
        for private in (SECRET, MAILED, CARD, NAME, "zanzibar", "quagga", *NAME.split()):
            assert private.encode() not in place
    cached = [line for line in stored.split(b"\n") if line.startswith(b"router:2:")]
    assert len(cached) == 2, "one for each public question"
    gateway.start()


def _everything(client: Any) -> Iterator[bytes]:
    """All keys and all that is kept under them."""
    for key in client.scan_iter():
        yield key
        match client.type(key):
            case b"string":
                yield client.get(key)
            case b"hash":
                yield from client.hgetall(key).values()
            case b"zset":
                yield from client.zrange(key, 0, -1)
            case other:
                raise AssertionError(f"{key!r} is a {other!r}, which this test does not read")
