from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_client._sse import SSEDecoder


def decode(chunks: Sequence[bytes]) -> list[str]:
    decoder = SSEDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def cut(data: bytes, borders: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),  # one space belongs to the format, the second to the data
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b": comment\ndata: a\n\n: ping\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\n\ndata: cut off\n", ["a"]),
        (b"data: a\n\ndata: cut o", ["a"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_known_streams(stream: bytes, events: list[str]) -> None:
    assert decode([stream]) == events


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_cr_and_lf_end_a_line(character: str) -> None:
    assert decode([f"data: a{character}b\n\n".encode()]) == [f"a{character}b"]


LINES = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]))


@settings(deadline=None)
@given(
    st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_chunk_borders_change_nothing(
    events: list[list[str]], newline: str, borders: list[int]
) -> None:
    stream = "".join(
        "".join(f"data: {line}{newline}" for line in lines) + newline for lines in events
    ).encode()
    expected = ["\n".join(lines) for lines in events]
    assert decode(cut(stream, borders)) == expected
    assert decode([stream[i : i + 1] for i in range(len(stream))]) == expected


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=10))
def test_any_bytes_decode_alike_however_they_are_cut(data: bytes, borders: list[int]) -> None:
    assert decode(cut(data, borders)) == decode([data])
