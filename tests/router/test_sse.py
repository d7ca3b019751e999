"""Server-sent events against the HTML standard's rules, however the bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sse import events


async def source(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


async def read(*pieces: bytes) -> list[str]:
    return [data async for data in events(source(*pieces))]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b": comment\n\nevent: x\nid: 7\ndata: a\nretry: 3\n\n", ["a"]),
        (b"\n\n\ndata: a\n\n\n", ["a"]),
        (b"database: a\n\n", []),
        (b"data\n\n", [""]),
        ("data: a\u2028b\n\n".encode(), ["a\u2028b"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"data: unfinished\n", []),
        (b"data: unfinished", []),
        (b"data: a\n\ndata: [DONE]", ["a", "[DONE]"]),
        (b"data: a\n\ndata: [DONE]\n", ["a", "[DONE]"]),
        (b"", []),
    ],
)
async def test_known_streams(raw: bytes, expected: list[str]) -> None:
    assert await read(raw) == expected


@given(st.lists(st.integers(0, 60), max_size=8).map(sorted))
async def test_where_the_bytes_are_cut_does_not_matter(cuts: list[int]) -> None:
    raw = 'data: {"ä": 1}\r\n\r\n: ping\n\ndata: x\ndata: y\n\ndata: [DONE]\n\n'.encode()
    edges = [0, *cuts, len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert await read(*pieces) == ['{"ä": 1}', "x\ny", "[DONE]"]


async def test_closing_closes_the_source() -> None:
    closed = []

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"data: a\n\n"
        finally:
            closed.append(True)

    stream = events(endless())
    assert await anext(stream) == "a"
    await stream.aclose()
    assert closed == [True]
