"""Server-sent events: the ``data`` of each, out of a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

DONE = "[DONE]"
"""What OpenAI's streams end with."""


async def events(source: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Yield the data of each event in `source`; closing this closes `source`.

    Follows the HTML standard: several data lines of one event are joined by line breaks, comments
    and other fields are skipped, and an event that its blank line does not end is dropped, with one
    exception: a last ``[DONE]`` counts even so, because some servers stop right behind it. Only LF
    ends a line (CR before it is dropped), never U+2028, which JSON may hold as it is.
    """
    data: list[bytes] = []
    rest = b""
    async with aclosing(source):
        async for piece in source:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.rstrip(b"\r"):
                    data += _data(line)
                elif data:
                    yield _join(data)
                    data = []
    data += _data(rest)
    if data and _join(data).strip() == DONE:
        yield DONE


def _data(line: bytes) -> list[bytes]:
    field, _, value = line.rstrip(b"\r").partition(b":")
    return [value.removeprefix(b" ")] if field == b"data" else []


def _join(data: list[bytes]) -> str:
    return b"\n".join(data).decode(errors="replace")
