"""An upstream that follows a script, byte by byte: what a well-behaved framework can't do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    body: Any


asked: ContextVar[Request] = ContextVar("asked")
"""The request that a step answers."""


@dataclass
class Server:
    """Answers each request with the next step; the last one serves all further requests."""

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed its connection."""
    busy: int = 0
    """Requests that are being answered."""


@asynccontextmanager
async def scripted(*steps: Step) -> AsyncIterator[Server]:
    server = Server(steps=list(steps))
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                server.requests.append(request)
                asked.set(request)
                step = server.steps.pop(0) if len(server.steps) > 1 else server.steps[0]
                server.busy += 1
                try:
                    if not await _play(step, reader, writer):
                        break
                finally:
                    server.busy -= 1
                if writer.is_closing():
                    return
            server.hung_up.set()
        except (ConnectionError, asyncio.CancelledError):
            server.hung_up.set()
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


async def _play(step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Do the step; False when the client hung up meanwhile, which ends it."""
    playing = asyncio.ensure_future(step(writer))
    gone = asyncio.ensure_future(reader.read(1))
    both: list[asyncio.Future[Any]] = [playing, gone]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            return False
        await playing
        return True
    finally:
        playing.cancel()
        gone.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (item.split(": ", 1) for item in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(line, headers, json.loads(body) if body else None)


def answer(
    body: Any, status: int = 200, content_type: str = "application/json", **headers: str
) -> Step:
    """A complete response. `body` is JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, content_type, len(raw), headers) + raw)
        await writer.drain()

    return step


def completion(text: str = "four", **more: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's API gives it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        **more,
    }


def chunk(text: str | None = None, finish: str | None = None, index: int = 0) -> bytes:
    """One event of a stream."""
    delta = {} if text is None else {"content": text}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "choices": [choice]})


USAGE_CHUNK = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def streamed(*pieces: bytes | float, content_type: str = "text/event-stream") -> Step:
    """A response without a length, ended by closing; a number pauses for so many seconds."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, content_type, None, {}))
        for piece in pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            else:
                await asyncio.sleep(piece)
        writer.close()

    return step


def cut(*pieces: bytes, length: int | None = 10_000) -> Step:
    """A response that announces `length` bytes, or chunks, and breaks off behind `pieces`."""

    async def step(writer: asyncio.StreamWriter) -> None:
        kind = "application/json" if length else "text/event-stream"
        extra = {} if length else {"Transfer-Encoding": "chunked"}
        writer.write(_head(200, kind, length, extra))
        for piece in pieces:
            writer.write(piece if length else f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
        writer.close()

    return step


async def reset(writer: asyncio.StreamWriter) -> None:
    """Drop the connection without an answer (TCP reset)."""
    writer.transport.abort()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close the connection without an answer."""
    writer.close()


async def silence(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - a Step
    """Take the request and never answer."""
    await asyncio.sleep(3600)


def raw(data: bytes) -> Step:
    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return step


def _head(status: int, content_type: str, length: int | None, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
