"""An upstream that gives everyone the same answer at once, so that what is measured is the gateway.

    .venv/bin/python -m benchmarks.gateway_upstream PORT [PAUSE]

Speaks OpenAI's chat completions, in one piece or as a stream of a chunk a word, with PAUSE seconds
before each word. `GET /asked` tells how many answers it began.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from typing import Any, cast

import httptools
import uvloop

WORDS = tuple(f"word{i} " for i in range(32))
ANSWER = "".join(WORDS)
USAGE = {"prompt_tokens": 12, "completion_tokens": len(WORDS), "total_tokens": 12 + len(WORDS)}


def whole_answer() -> bytes:
    """The `chat.completion`, as a response."""
    message = {"role": "assistant", "content": ANSWER}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return _response({**_fields("chat.completion"), "choices": [choice], "usage": USAGE})


def events() -> Iterable[bytes]:
    """The parts of a streamed answer, as they are on the wire: its head, then an event each."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    yield head.encode()
    for word in WORDS:
        yield _event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
    yield _event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    yield _event([], usage=USAGE)
    yield _piece(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _fields(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-mock", "object": kind, "created": 1_700_000_000, "model": "mock"}


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    chunk = {**_fields("chat.completion.chunk"), "choices": choices, **more}
    return _piece(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _piece(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _response(content: Any) -> bytes:
    body = json.dumps(content).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


WHOLE = whole_answer()
EVENTS = tuple(events())


class Upstream(asyncio.Protocol):
    """One connection."""

    asked = 0
    pause = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._url == b"/asked":
            self._transport.write(_response(Upstream.asked))
            return
        Upstream.asked += 1
        if json.loads(self._body).get("stream"):
            self._send(0)
        else:
            self._transport.write(WHOLE)

    def _send(self, index: int) -> None:
        """Send this part of the stream, and the others after it, each by itself."""
        if index == len(EVENTS) or self._transport.is_closing():
            return
        self._transport.write(EVENTS[index])
        loop = asyncio.get_running_loop()
        loop.call_later(self.pause, self._send, index + 1)


async def serve(port: int, pause: float) -> None:
    """Serve on `port` of 127.0.0.1 until the process ends."""
    Upstream.pause = pause
    server = await asyncio.get_running_loop().create_server(
        Upstream, "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
