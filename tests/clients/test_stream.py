from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_client import (
    AsyncRouterClient,
    InvalidResponse,
    RouterClient,
    StreamEnd,
    StreamInterrupted,
    TextDelta,
    ToolCallDelta,
)
from router_client._stream_reader import StreamReader

from . import wire
from .faces import Face
from .wire import Json

WHOLE = wire.sse(wire.pieces("Hel", "lo"))


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks after its first bytes."""

    def __init__(self, content: bytes, error: Exception) -> None:
        self.content = content
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content
        raise self.error


def breaking(content: bytes, error: Exception) -> wire.Handler:
    headers = {"content-type": "text/event-stream"}
    return lambda _: httpx.Response(200, headers=headers, stream=Broken(content, error))


def read(chunks: Sequence[bytes]) -> StreamReader:
    reader = StreamReader()
    for chunk in chunks:
        list(reader.feed(chunk))
    return reader


def test_pieces_then_the_whole_answer(face: Face) -> None:
    went = face.stream(wire.streaming(WHOLE))
    assert went.error is None
    assert went.pieces == ["Hel", "lo"]
    stream = went.stream
    assert (stream.text, stream.request_id) == ("Hello", "req-7")
    assert stream.router.p_correct == 0.83
    assert stream.usage is not None
    assert stream.usage.total_tokens == 10
    answer = stream.answer
    assert (answer.text, answer.finish_reason, answer.is_local) == ("Hello", "stop", True)
    assert (answer.id, answer.model, answer.request_id) == ("chatcmpl-1", "local", "req-7")
    assert answer.raw["router"] == wire.ROUTER
    assert repr(stream).endswith("Stream complete, 5 characters>")


def test_events(face: Face) -> None:
    events = face.stream(wire.streaming(WHOLE), events=True).events
    assert events[:-1] == [TextDelta(text="Hel"), TextDelta(text="lo")]
    assert isinstance(events[-1], StreamEnd)
    assert events[-1].answer.text == "Hello"


def test_tool_calls_are_put_together(face: Face) -> None:
    def call(index: int, **fields: object) -> Json:
        return wire.delta(tool_calls=[{"index": index, **fields}])

    chunks = [
        call(1, id="b", function={"name": "g", "arguments": "{}"}),
        call(0, id="a", function={"name": "f"}),
        call(0, function={"arguments": '{"x"'}),
        call(0, function={"arguments": ": 1}"}),
        wire.delta("tool_calls"),
        wire.chunk(choices=[], router=wire.ROUTER),
    ]
    went = face.stream(wire.streaming(wire.sse(chunks)), events=True)
    assert went.error is None
    assert went.events[1] == ToolCallDelta(index=0, id="a", name="f")
    answer = went.stream.answer
    assert (answer.text, answer.usage) == ("", None)
    assert [(c.id, c.function.name, c.function.arguments) for c in answer.tool_calls] == [
        ("a", "f", '{"x": 1}'),
        ("b", "g", "{}"),
    ]


def test_only_the_first_choice_is_the_answer(face: Face) -> None:
    chunks = [wire.delta(content="no", index=1), *wire.pieces("yes")]
    assert face.stream(wire.streaming(wire.sse(chunks))).pieces == ["yes"]


def test_characters_that_split_python_s_lines_stay_in_the_text(face: Face) -> None:
    text = "a\u2028b\x85c"
    assert face.stream(wire.streaming(wire.sse(wire.pieces(text)))).pieces == [text]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (wire.sse(wire.pieces("Hel", "lo"), done=False), "Hello"),  # all but the [DONE]
        (WHOLE[:-1], "Hello"),  # [DONE] without its blank line
        (wire.sse([wire.delta(content="Hel")], done=False), "Hel"),
        (wire.sse([wire.delta(content="Hel")]), "Hel"),  # [DONE] without a finish reason
        (wire.sse([wire.delta(content="Hel")], done=False) + b"data: {oops\n\n", "Hel"),
        (wire.sse([wire.delta(content="Hel")], done=False) + b"data: 7\n\n", "Hel"),
    ],
)
def test_a_truncated_stream_never_looks_complete(face: Face, content: bytes, text: str) -> None:
    for events in (False, True):
        went = face.stream(wire.streaming(content), events=events)
        assert isinstance(went.error, StreamInterrupted)
        assert (went.error.text, went.error.request_id) == (text, "req-7")
        assert f"({len(text)} characters had arrived)" in str(went.error)
        with pytest.raises(RuntimeError, match="not complete"):
            _ = went.stream.router


@pytest.mark.parametrize("kind", [httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout])
@pytest.mark.parametrize("why", ["why", ""])
def test_a_connection_lost_on_the_way(face: Face, kind: type[httpx.RequestError], why: str) -> None:
    content = wire.sse([wire.delta(content="Hel")], done=False)
    went = face.stream(breaking(content, kind(why)))
    assert went.pieces == ["Hel"]
    assert isinstance(went.error, StreamInterrupted)
    assert isinstance(went.error.__cause__, kind)
    assert kind.__name__ in str(went.error)
    assert "not complete, 3 characters" in repr(went.stream)


def test_a_connection_lost_after_the_end_does_not_matter(face: Face) -> None:
    went = face.stream(breaking(WHOLE, httpx.ReadError("reset")))
    assert went.error is None
    assert went.stream.answer.text == "Hello"


def test_what_follows_the_end_does_not_count(face: Face) -> None:
    more = wire.sse([wire.delta(content="more"), wire.error("late")])
    went = face.stream(wire.streaming(WHOLE + more))
    assert (went.error, went.pieces) == (None, ["Hel", "lo"])


def test_an_error_event_comes_after_the_text_before_it(face: Face) -> None:
    cut = wire.error("the engine died", type="server_error", param="p", code="engine_down")
    went = face.stream(wire.streaming(wire.sse([wire.delta(content="Hel"), cut])))
    assert went.pieces == ["Hel"]
    error = went.error
    assert isinstance(error, StreamInterrupted)
    assert "the engine died" in str(error)
    assert (error.type, error.param, error.code) == ("server_error", "p", "engine_down")


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (wire.answering(wire.completion()), "content type 'application/json'"),
        (
            wire.streaming(wire.sse([wire.delta("stop", content="a")])),
            "the stream has no `router` object",
        ),
        (wire.streaming(wire.sse([wire.chunk(choices="x")])), "`choices` is not as expected"),
    ],
)
def test_a_stream_that_is_no_gateway_s(face: Face, handler: wire.Handler, message: str) -> None:
    went = face.stream(handler)
    assert isinstance(went.error, InvalidResponse)
    assert message in str(went.error)


@settings(deadline=None)
@given(st.lists(st.text(min_size=1), max_size=6), st.lists(st.integers(0, 10_000), max_size=40))
def test_chunk_borders_change_nothing(texts: list[str], borders: list[int]) -> None:
    texts = [text.encode(errors="ignore").decode() for text in texts]  # no lone surrogates
    content = wire.sse(wire.pieces(*texts))
    places = [0, *sorted(border % len(content) for border in borders), len(content)]
    chunks = [content[a:b] for a, b in pairwise(places)]
    reader = read(chunks)
    assert reader.answer is not None
    assert reader.answer.text == "".join(texts)
    assert reader.answer == read([content]).answer


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1))
def test_no_prefix_is_complete(length: int) -> None:
    reader = read([WHOLE[:length]])
    assert reader.answer is None
    with pytest.raises(StreamInterrupted):
        reader.require_complete()


def client_of(handler: wire.Handler) -> RouterClient:
    return RouterClient(transport=httpx.MockTransport(handler))


def async_client_of(handler: wire.Handler) -> AsyncRouterClient:
    return AsyncRouterClient(transport=httpx.MockTransport(handler))


def test_nothing_is_sent_before_the_stream_is_used() -> None:
    handler, seen = wire.recording(wire.streaming(WHOLE))
    with client_of(handler) as client:
        stream = client.stream("question")
        assert (seen, stream.request_id) == ([], None)
        assert list(stream) == ["Hel", "lo"]  # also without a with block
        assert list(stream) == []
        assert len(seen) == 1


async def test_nothing_is_sent_before_the_async_stream_is_used() -> None:
    handler, seen = wire.recording(wire.streaming(WHOLE))
    async with async_client_of(handler) as client:
        stream = client.stream("question")
        assert (seen, stream.request_id) == ([], None)
        assert [piece async for piece in stream] == ["Hel", "lo"]
        assert [piece async for piece in stream] == []
        assert len(seen) == 1


def test_a_stream_left_early_is_not_complete() -> None:
    with client_of(wire.streaming(WHOLE)) as client:
        with client.stream("question") as stream:
            assert next(stream) == "Hel"
        for _ in range(2):
            with pytest.raises(StreamInterrupted):
                next(stream)
        stream.close()
        client.stream("never used").close()


async def test_an_async_stream_left_early_is_not_complete() -> None:
    async with async_client_of(wire.streaming(WHOLE)) as client:
        async with client.stream("question") as stream:
            assert await anext(stream) == "Hel"
        for _ in range(2):
            with pytest.raises(StreamInterrupted):
                await anext(stream)
        await stream.close()
        await client.stream("never used").close()


def test_an_error_is_not_forgotten() -> None:
    with client_of(wire.streaming(b"")) as client, client.stream("question") as stream:
        for _ in range(2):
            with pytest.raises(StreamInterrupted):
                next(stream)
