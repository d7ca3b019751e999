"""Whatever can be wrong with an upstream, as steps of a scripted one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from tests.router.fake_upstream import (
    Step,
    answer,
    chunk,
    completion,
    cut,
    event,
    hang_up,
    raw,
    reset,
    silence,
    streamed,
)


def dripping(data: bytes, content_type: str, seconds: float = 0.02) -> Step:
    """One byte at a time."""
    pieces = [piece for byte in data for piece in (bytes([byte]), seconds)]
    return streamed(*pieces, content_type=content_type)


def endless(piece: bytes, head: str) -> Step:
    """The same again and again, for as long as it is read."""

    async def step(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
        for _ in itertools.count():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return step


async def headers_without_end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for i in itertools.count():
        writer.write(f"X-More-{i}: {'x' * 1000}\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0)


def _date(**ahead: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(**ahead), usegmt=True)


JSON = "Content-Type: application/json"
SSE = "Content-Type: text/event-stream"

NO_ANSWER: Mapping[str, Step] = {
    "resets": reset,
    "hangs up": hang_up,
    "hangs": silence,
    "is no HTTP": raw(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "sends headers without end": headers_without_end,
    "429 storm": answer({"error": {"message": "slow down"}}, 429),
    "429, Retry-After in the year 9999": answer(
        {}, 429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"
    ),
    "429, Retry-After of many digits": answer({}, 429, Retry_After="9" * 400),
    "429, Retry-After by a clock that is a day ahead": answer(
        {}, 429, Retry_After=_date(days=1, seconds=1), Date=_date(days=1)
    ),
    "429, Retry-After in the past": answer({}, 429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "503, Retry-After that is nonsense": answer({}, 503, Retry_After="soon"),
    "500s": answer({"error": {"message": "out of order"}}, 500),
    "500, with an error that drips": raw(b"HTTP/1.1 500 No\r\nContent-Length: 9000\r\n\r\nhalf"),
    "redirects": answer({}, 307, Location="http://127.0.0.1:1/v1"),
    "wrong content type": answer(b"<html>hello</html>", content_type="text/html"),
    "says nothing": answer(b"", content_type=""),
}
"""Nothing of an answer comes, whatever is asked for."""

BROKEN_ANSWER: Mapping[str, Step] = {
    **NO_ANSWER,
    "resets mid-body": cut(b'{"choices": ['),
    "hangs mid-body": streamed(b'{"choices": [', 3600.0, content_type="application/json"),
    "a byte now and then": dripping(b'{"choices": []}' * 100, "application/json"),
    "invalid JSON": answer(b'{"choices": [{'),
    "no completion": answer({"choices": [{"index": 0}]}),
    "deep JSON": answer(b"[" * 100_000),
    "endless body": endless(b" " * 65_536, JSON),
    "huge body": endless(b" " * 65_536, f"{JSON}\r\nContent-Length: {1 << 40}"),
    "error with status 200": answer({"error": {"message": "quota"}}),
}
"""No whole answer comes when one is asked for in one piece."""

NO_STREAM: Mapping[str, Step] = {
    **NO_ANSWER,
    "an answer in one piece": answer(completion("four")),
    "an empty stream": streamed(),
    "a stream that hangs at once": streamed(3600.0),
    "a first byte now and then": dripping(chunk("a") * 100, "text/event-stream"),
    "garbage at once": streamed(b"data: {nonsense}\n\n"),
    "comments without end": endless(b": still here\n\n" * 1000, SSE),
    "a line without end": endless(b"x" * 65_536, SSE),
}
"""Not even the first chunk of a stream comes."""

BROKEN_STREAM: Mapping[str, Step] = {
    "cut": streamed(chunk("four")),
    "reset": cut(chunk("four"), length=None),
    "hangs": streamed(chunk("four"), 3600.0),
    "garbage": streamed(chunk("four"), b"data: {nonsense}\n\n"),
    "an error": streamed(chunk("four"), event({"error": {"message": "overloaded"}})),
    "endless": endless(chunk("four"), SSE),
    "endless and large": endless(chunk("four" * 10_000), SSE),
}
"""A stream begins and comes to no good end."""
