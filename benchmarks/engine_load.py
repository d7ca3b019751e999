"""Puts a server under load over HTTP and times what comes back.

Answers are streamed. The client shares the machine with the server, so while it waits it only notes
when which bytes came, and makes sense of them once the load is over.
"""

from __future__ import annotations

import asyncio
import bisect
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from benchmarks.servers import ServerError
from router.engine.messages import Message

ANSWER_SECONDS = 600
"""After which a server that has not finished an answer counts as hanging."""


@dataclass(frozen=True)
class Reply:
    """One streamed answer.

    Attributes
    ----------
    first_seconds : from the request to the first chunk with text.
    seconds : from the request to the last byte.
    tokens : of the answer, by its `usage`; where the server streams none, the chunks with text.
    prompt_tokens : by its `usage`; None where the server streams none.
    """

    first_seconds: float
    seconds: float
    tokens: int
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Load:
    """What came of one load; `seconds` from its first request to its last answer."""

    seconds: float
    replies: list[Reply]

    @property
    def tokens(self) -> int:
        return sum(reply.tokens for reply in self.replies)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def latency(self, percent: float) -> float:
        """A percentile of the answers' seconds."""
        return float(np.percentile([reply.seconds for reply in self.replies], percent))

    def first(self, percent: float) -> float:
        """A percentile of the seconds to the first text."""
        return float(np.percentile([reply.first_seconds for reply in self.replies], percent))


Arrivals = list[tuple[float, bytes]]
"""What came over the connection, and when."""


def body(messages: Sequence[Message], max_tokens: int, *, stream: bool) -> dict[str, Any]:
    """A greedy request to any of the servers."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    asked: dict[str, Any] = {"model": "local", "messages": turns, "temperature": 0}
    asked["max_tokens"] = max_tokens
    if stream:
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
    return asked


async def load(
    port: int, bodies: Sequence[Mapping[str, Any]], clients: int, limit_seconds: float = 1e9
) -> Load:
    """Let `clients` clients, which ask again once they are answered, work through `bodies`.

    After `limit_seconds` no client asks again. Raises ServerError for anything but whole answers.
    """
    requests = iter([_request(port, each) for each in bodies])
    seen: list[tuple[float, Arrivals]] = []
    start = time.perf_counter()

    async def client() -> None:
        for request in requests:
            asked = time.perf_counter()
            seen.append((asked, await _exchange(port, request)))
            if time.perf_counter() - start > limit_seconds:
                return

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
    except* (OSError, TimeoutError) as errors:
        first = errors.exceptions[0]
        raise ServerError(f"{type(first).__name__}: {first}") from first
    try:
        replies = [reply(asked, arrivals) for asked, arrivals in seen]
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"an answer is not what OpenAI's would be: {error!r}") from error
    end = max(arrivals[-1][0] for _, arrivals in seen)
    return Load(end - start, replies)


def _request(port: int, asked: Mapping[str, Any]) -> bytes:
    content = json.dumps(asked).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


async def _exchange(port: int, request: bytes) -> Arrivals:
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            arrivals = []
            while data := await reader.read(1 << 16):
                arrivals.append((time.perf_counter(), data))
            return arrivals
        finally:
            writer.close()


def reply(asked: float, arrivals: Arrivals) -> Reply:
    """Make sense of what came for a request that was sent at `asked`. Raises ServerError."""
    status, events = _events(arrivals)
    if status != 200:
        raise ServerError(f"HTTP {status}: {b''.join(line for _, line in events)[:200].decode()}")
    first, chunks, usage, done = None, 0, None, False
    for moment, line in events:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or not data:
            continue
        if data == b"[DONE]":
            done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServerError(f"the answer was cut: {chunk['error']}")
        usage = chunk.get("usage") or usage
        if any((choice.get("delta") or {}).get("content") for choice in chunk.get("choices") or ()):
            first, chunks = first or moment, chunks + 1
    if not done or first is None:
        raise ServerError("an answer has no text" if done else "an answer was cut")
    tokens = chunks if usage is None else int(usage["completion_tokens"])
    prompt = None if usage is None else int(usage["prompt_tokens"])
    return Reply(first - asked, arrivals[-1][0] - asked, tokens, prompt)


def _events(arrivals: Arrivals) -> tuple[int, list[tuple[float, bytes]]]:
    """The HTTP status, and the lines of the body, each with the moment at which it was complete."""
    raw = b"".join(data for _, data in arrivals)
    head, _, content = raw.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not status:
        raise ServerError("it hung up without an answer")
    at = len(head) + 4
    chunked = b"transfer-encoding: chunked" in head.lower()
    parts = list(_chunks(raw, at)) if chunked else [(len(raw), content)]
    raw_ends = list(accumulate(len(data) for _, data in arrivals))
    body_ends = list(accumulate(len(part) for _, part in parts))
    lines = b"".join(part for _, part in parts).splitlines(keepends=True)
    timed = []
    for end, line in zip(accumulate(map(len, lines)), lines, strict=True):
        # A line is complete with the chunk that holds its end.
        raw_end = parts[bisect.bisect_left(body_ends, end)][0] if chunked else at + end
        timed.append((arrivals[bisect.bisect_left(raw_ends, raw_end)][0], line))
    return int(status[0]), timed


def _chunks(raw: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Where each chunk of a chunked body from `at` on ends, and what it holds."""
    while True:
        line_end = raw.find(b"\r\n", at)
        if line_end < 0:
            raise ServerError("an answer was cut")
        size = int(raw[at:line_end].partition(b";")[0], 16)
        if size == 0:
            return
        start, at = line_end + 2, line_end + 4 + size
        if at > len(raw):
            raise ServerError("an answer was cut")
        yield start + size, raw[start : start + size]
