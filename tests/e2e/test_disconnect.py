"""A client that goes away, at each stage of its request: what was done for it stops.

The gateway has one slot. What an abandoned request had read and written by the time the slot was
free tells that it was stopped, and did not merely end.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.e2e.conftest import Gateway
from tests.router.fake_upstream import Server, chunk, scripted, silence, streamed

pytestmark = pytest.mark.asyncio(loop_scope="module")

MOST_TOKENS = 900
STORY = "Write a long story about a lighthouse keeper and his dog."
LONG = "The tide came in and the keeper counted the ships. " * 150
"""A prompt of some 1,800 tokens."""

HALF_A_STREAM = streamed(chunk("four"), 3600.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted_upstream() -> AsyncIterator[Server]:
    async with scripted(silence) as server:
        yield server


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, scripted_upstream: Server) -> Iterator[Gateway]:
    options = {"upstream": scripted_upstream.url, "slots": "1", "queue": "4", "ledger": "off"}
    gateway = Gateway(options, tmp_path_factory.mktemp("small") / "log")
    gateway.start()
    yield gateway
    gateway.stop()
    assert "Traceback" not in gateway.log.read_text()


class Load:
    """What the gateway's engine has to do and has done, as its metrics tell."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def now(self) -> dict[str, int]:
        text = (await self._client.get("/metrics")).text
        found = re.findall(r'^router_engine(?:_tokens)?{what="(\w+)"} (\S+)$', text, re.M)
        return {name: int(float(value)) for name, value in found}

    async def until(self, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        async with asyncio.timeout(20):
            while not holds(load := await self.now()):
                await asyncio.sleep(0.005)
        return load

    async def idle(self) -> dict[str, int]:
        return await self.until(lambda load: load["active"] == load["waiting"] == 0)


@pytest_asyncio.fixture(loop_scope="module")
async def client(small: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
        yield client


@contextlib.asynccontextmanager
async def asking(
    client: httpx.AsyncClient, question: str, **fields: Any
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Ask over a connection of our own; gives what hangs up."""

    async def ask() -> None:
        async with (
            httpx.AsyncClient(base_url=client.base_url, timeout=60) as own,
            own.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            async for _ in response.aiter_bytes():
                pass

    async def leave() -> None:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    body = {"model": "auto", "messages": [{"role": "user", "content": question}], **fields}
    task = asyncio.create_task(ask())
    try:
        yield leave
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
MODELS = pytest.mark.parametrize("model", ["auto", "local"])


@STREAMED
@MODELS
async def test_while_the_prompt_is_read(
    client: httpx.AsyncClient, model: str, stream: bool
) -> None:
    load = Load(client)
    before = await load.idle()
    prompt = f"{model} {stream}. {LONG}"
    async with asking(client, prompt, model=model, stream=stream, max_tokens=50) as leave:
        await load.until(lambda load: load["active"] == 1)
        await leave()
        after = await load.idle()
    assert after["written"] == before["written"]
    assert after["read"] - before["read"] < 1000


@STREAMED
@MODELS
async def test_while_the_answer_is_written(
    client: httpx.AsyncClient, model: str, stream: bool
) -> None:
    load = Load(client)
    before = await load.idle()
    question = f"{STORY} {model} {stream}"
    fields = {"router": {"threshold": 0.0}} if model == "auto" else {}
    async with asking(
        client, question, model=model, stream=stream, max_tokens=MOST_TOKENS, **fields
    ) as leave:
        await load.until(lambda load: load["written"] > before["written"] + 5)
        await leave()
        after = await load.idle()
    assert after["written"] - before["written"] < MOST_TOKENS / 2


async def test_while_committed_text_is_sent(client: httpx.AsyncClient) -> None:
    load = Load(client)
    before = await load.idle()
    fields = {"router": {"threshold": 0.0, "stream_mode": "commit"}, "stream": True}
    async with asking(client, f"{STORY} At once.", max_tokens=MOST_TOKENS, **fields) as leave:
        await load.until(lambda load: load["written"] > before["written"] + 30)
        await leave()
        after = await load.idle()
    assert after["written"] - before["written"] < MOST_TOKENS / 2


@STREAMED
async def test_while_waiting_for_a_slot(client: httpx.AsyncClient, stream: bool) -> None:
    load = Load(client)
    await load.idle()
    async with asking(client, f"{STORY} {stream}", model="local", max_tokens=MOST_TOKENS) as first:
        await load.until(lambda load: load["active"] == 1)
        async with asking(client, f"{STORY} Later.", model="local", stream=stream) as second:
            await load.until(lambda load: load["waiting"] == 1)
            await second()
            assert (await load.until(lambda load: load["waiting"] == 0))["active"] == 1
        await first()
        await load.idle()


@STREAMED
async def test_while_the_upstream_is_asked(
    client: httpx.AsyncClient, scripted_upstream: Server, stream: bool
) -> None:
    scripted_upstream.steps[:] = [silence]
    async with asking(client, f"{STORY} {stream}", model="remote", stream=stream) as leave:
        await until(lambda: scripted_upstream.busy == 1)
        await leave()
        await until(lambda: scripted_upstream.busy == 0)


async def test_while_the_upstream_answers(
    client: httpx.AsyncClient, scripted_upstream: Server
) -> None:
    scripted_upstream.steps[:] = [HALF_A_STREAM]
    message = {"role": "user", "content": STORY}
    body = {"model": "remote", "stream": True, "messages": [message]}
    async with (
        httpx.AsyncClient(base_url=client.base_url, timeout=60) as own,
        own.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert "four" in await anext(response.aiter_text())
        assert scripted_upstream.busy == 1
    await until(lambda: scripted_upstream.busy == 0)


@STREAMED
async def test_of_two_who_ask_the_same_the_last_one_stops_it(
    client: httpx.AsyncClient, stream: bool
) -> None:
    load = Load(client)
    before = await load.idle()
    question = f"{STORY} Twice, {stream}."
    fields: dict[str, Any] = {"model": "local", "max_tokens": MOST_TOKENS}
    async with asking(client, question, **fields) as first:
        at_first = await load.until(lambda load: load["written"] > before["written"] + 5)
        async with asking(client, question, stream=stream, **fields) as second:
            await asyncio.sleep(0.2)
            await first()
            later = await load.until(lambda load: load["written"] > at_first["written"] + 40)
            assert (later["active"], later["waiting"]) == (1, 0)
            await second()
            after = await load.idle()
    assert after["written"] - before["written"] < MOST_TOKENS


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)
