"""Streamed answers of an upstream that misbehaves on purpose."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from router.errors import (
    UpstreamRejected,
    UpstreamUnavailable,
)
from tests.router.asked_upstream import BODY, collect, upstream
from tests.router.fake_upstream import (
    DONE,
    USAGE_CHUNK,
    Server,
    answer,
    chunk,
    completion,
    cut,
    event,
    reset,
    streamed,
)


class TestStream:
    async def test_chunks_come_as_they_are(self) -> None:
        step = streamed(chunk("fo"), chunk("ur"), chunk(finish="stop"), event(USAGE_CHUNK), DONE)
        async with upstream(step, model="big") as (client, server):
            chunks = await collect(client, {**BODY, "stream": True, "top_k": 3})
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
        assert text == "four"
        assert chunks[-1] == USAGE_CHUNK
        assert server.requests[0].body == {
            **BODY,
            "model": "big",
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def test_the_callers_stream_options_are_kept(self) -> None:
        options = {"include_usage": False, "include_obfuscation": False}
        async with upstream(streamed(chunk("a", "stop"), DONE)) as (client, server):
            await collect(client, {**BODY, "stream_options": options})
        assert server.requests[0].body["stream_options"] == {
            "include_usage": True,
            "include_obfuscation": False,
        }

    async def test_the_first_chunk_does_not_wait_for_the_last(self) -> None:
        async with upstream(streamed(chunk("a"), 3600.0)) as (client, server):
            async with aclosing(client.stream(BODY)) as chunks:
                first = await anext(chunks)
            assert first["choices"][0]["delta"] == {"content": "a"}
            await asyncio.wait_for(_leave(server), 5)

    async def test_hanging_up_closes_the_connection(self) -> None:
        steps = streamed(*[piece for _ in range(500) for piece in (chunk("a"), 0.01)])
        async with upstream(steps) as (client, server):
            async with aclosing(client.stream(BODY)) as chunks:
                await anext(chunks)
            await asyncio.wait_for(server.hung_up.wait(), 5)

    @pytest.mark.parametrize(
        "pieces",
        [
            (chunk("a"), chunk(finish="stop"), DONE),
            (chunk("a"), chunk(finish="length")),
            (chunk("a", "stop"), event(USAGE_CHUNK)),
            (chunk("a"), chunk(finish="stop"), b"data: [DONE]"),
            (chunk("a", index=0), chunk("b", index=1), chunk(finish="stop", index=0),
             chunk(finish="stop", index=1)),
        ],
    )  # fmt: skip
    async def test_complete_ends(self, pieces: tuple[bytes, ...]) -> None:
        async with upstream(streamed(*pieces)) as (client, _):
            assert await collect(client)

    @pytest.mark.parametrize(
        "pieces",
        [
            (),
            (event(USAGE_CHUNK),),
            (chunk("a"),),
            (chunk("a"), b"data: {"),
            (chunk("a"), chunk(finish="stop")[:-2]),
            (chunk("a", index=0), chunk("b", index=1), chunk(finish="stop", index=0)),
        ],
    )
    async def test_a_cut_stream_never_looks_complete(self, pieces: tuple[bytes, ...]) -> None:
        async with upstream(streamed(*pieces)) as (client, server):
            with pytest.raises(UpstreamUnavailable, match="cut the stream"):
                await collect(client)
        assert len(server.requests) == 1

    async def test_a_connection_lost_in_mid_stream(self) -> None:
        async with (
            upstream(cut(chunk("a"), length=None)) as (client, server),
            aclosing(client.stream(BODY)) as chunks,
        ):
            assert await anext(chunks)
            with pytest.raises(UpstreamUnavailable, match="cut its answer"):
                await anext(chunks)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("piece", "words"),
        [
            (b"data: {nonsense}\n\n", "no JSON object: {nonsense}"),
            (event({"error": {"message": "overloaded"}}), "broke off with an error.*overloaded"),
            (event({"choices": "many"}), "no chat completion"),
            (event({"choices": [1]}), "no chat completion"),
            (event({"choices": [{"index": []}]}), "no chat completion"),
        ],
    )
    async def test_a_bad_chunk_is_explained(self, piece: bytes, words: str) -> None:
        async with upstream(streamed(chunk("a"), piece, chunk(finish="stop"), DONE)) as (client, _):
            with pytest.raises(UpstreamUnavailable, match=words):
                await collect(client)

    async def test_before_the_stream_begins_it_may_be_repeated(self) -> None:
        async with upstream(reset, answer({}, 503), streamed(chunk("a", "stop"))) as (
            client,
            server,
        ):
            assert len(await collect(client)) == 1
        assert len(server.requests) == 3

    async def test_a_rejection(self) -> None:
        async with upstream(answer({"error": {"message": "no"}}, 422)) as (client, _):
            with pytest.raises(UpstreamRejected):
                await collect(client)

    async def test_an_answer_that_is_no_stream(self) -> None:
        async with upstream(answer(completion())) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="instead of text/event-stream"):
                await collect(client)

    async def test_silence(self) -> None:
        async with upstream(streamed(chunk("a"), 3600.0), read=0.05) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="silent"):
                await collect(client)

    async def test_the_deadline_holds(self) -> None:
        drips = [piece for _ in range(200) for piece in (chunk("a"), 0.02)]
        async with upstream(streamed(*drips), total=0.1) as (client, _):
            with pytest.raises(UpstreamUnavailable, match=r"within 0\.1 s"):
                await collect(client)


async def _leave(server: Server) -> None:
    """Wait until the server has nothing more to say; a step that sleeps is cancelled at the end."""
    while not server.requests:
        await asyncio.sleep(0.001)
