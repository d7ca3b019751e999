"""Cache, shared runs and pipeline together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from router.answer import Query
from router.config import Settings
from router.errors import ConfigError, EngineDown, RouterError
from service.cache import KEY_PREFIX, Cache, MemoryCache, RedisCache
from service.errors import ApiError
from service.gateway import Gateway, Served, StreamHead, build_cache
from service.metrics import Metrics
from service.parse import parse_chat_request
from service.query import to_query
from tests.redis_server import RedisServer
from tests.service.scripted import (
    INFO,
    LOCAL,
    QUESTION,
    REMOTE,
    REMOTE_STREAM,
    ScriptedPipeline,
    forever,
)


def query(**fields: Any) -> Query:
    parsed = parse_chat_request(json.dumps({**QUESTION, **fields}).encode())
    return to_query(parsed.request, parsed.raw, n_vocab=INFO.n_vocab)


@asynccontextmanager
async def gateway_of(pipeline: ScriptedPipeline, **settings: Any) -> AsyncIterator[Gateway]:
    chosen, metrics = Settings(**settings), Metrics()
    cache: Cache = MemoryCache(chosen.cache_size, chosen.cache_ttl)
    if chosen.redis_url is not None:  # patient, for busy machines, and never paused
        cache = RedisCache(
            chosen.redis_url, 60, on_fault=metrics.cache_fault, timeout=5.0, pause=0.0
        )
    gateway = Gateway(chosen, pipeline, cache, metrics)
    yield gateway
    await gateway.close()
    await cache.close()


async def ask(gateway: Gateway, asked: Query) -> Served:
    return await gateway.answer(asked, use=gateway.cache_use(asked, {}))


def count(gateway: Gateway, name: str, **labels: str) -> float:
    return gateway.metrics.registry.get_sample_value(name, labels) or 0.0


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_64_identical_questions_are_answered_by_one_run() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    pipeline = ScriptedPipeline(REMOTE, before=wait)
    async with gateway_of(pipeline) as gateway:
        tasks = [asyncio.create_task(ask(gateway, query())) for _ in range(64)]
        await settle()
        assert gateway.in_flight == 1
        gate.set()
        served = await asyncio.gather(*tasks)
        assert len(pipeline.queries) == 1
        assert {one.answer.text for one in served} == {REMOTE.text}
        assert {one.cache for one in served} == {"miss"}
        # One of them paid; together they cost what one run cost.
        assert sum(one.answer.cost_usd for one in served) == REMOTE.cost_usd
        assert count(gateway, "router_cache_lookups_total", result="shared") == 63
        assert count(gateway, "router_cache_lookups_total", result="miss") == 1
        assert count(gateway, "router_tokens_total", leg="remote", kind="completion") == 3
        assert gateway.in_flight == 0


async def test_one_who_does_not_stream_shares_with_one_who_does() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    pipeline = ScriptedPipeline(events=[*REMOTE_STREAM[:3], wait, *REMOTE_STREAM[3:]])
    async with gateway_of(pipeline) as gateway:
        asked = query()
        async with aclosing(gateway.stream(asked, use=gateway.cache_use(asked, {}))) as items:
            assert isinstance(await anext(items), StreamHead)
            whole = asyncio.create_task(ask(gateway, query()))
            await settle()
            gate.set()
            streamed = [item async for item in items]
        served = await whole
        assert len(pipeline.queries) == 1
        assert isinstance(streamed[-1], Served)
        assert served.answer.remote_body is not None
        message = served.answer.remote_body["choices"][0]["message"]
        assert message["content"] == "Hello there."


async def test_one_who_streams_shares_with_one_who_does_not() -> None:
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    pipeline = ScriptedPipeline(before=wait)
    async with gateway_of(pipeline) as gateway:
        whole = asyncio.create_task(ask(gateway, query()))
        await settle()
        gate.set()
        asked = query(stream=True)
        items = [item async for item in gateway.stream(asked, use=gateway.cache_use(asked, {}))]
        assert [type(item) for item in items] == [StreamHead, Served]
        assert (await whole).answer.text == LOCAL.text
        assert len(pipeline.queries) == 1


async def test_a_failure_reaches_all_and_is_not_remembered() -> None:
    async def pause() -> None:
        await asyncio.sleep(0)

    pipeline = ScriptedPipeline(EngineDown("killed"), before=pause)
    async with gateway_of(pipeline) as gateway:
        results = await asyncio.gather(
            *(ask(gateway, query()) for _ in range(5)), return_exceptions=True
        )
        assert all(isinstance(result, RouterError) for result in results)
        assert len(pipeline.queries) == 1
        pipeline.reply = LOCAL
        assert (await ask(gateway, query())).cache == "miss"


async def test_closing_tells_those_who_wait() -> None:
    pipeline = ScriptedPipeline(before=forever)
    async with gateway_of(pipeline) as gateway:
        task = asyncio.create_task(ask(gateway, query()))
        await settle()
        await gateway.close()
        with pytest.raises(ApiError) as caught:
            await task
        assert (caught.value.status, caught.value.code) == (503, "stopping")
        assert gateway.draining
        assert pipeline.stopped.is_set()


async def test_another_calibration_is_another_key() -> None:
    pipeline = ScriptedPipeline()
    async with gateway_of(pipeline) as gateway:
        before = gateway.cache_use(query(), {}).key
        pipeline.calibration = None
        assert gateway.cache_use(query(), {}).key not in (before, None)


async def test_another_upstream_is_another_key() -> None:
    async with (
        gateway_of(ScriptedPipeline(), upstream="http://127.0.0.1:1/v1") as one,
        gateway_of(ScriptedPipeline(), upstream="http://127.0.0.1:2/v1") as other,
    ):
        assert one.cache_use(query(), {}).key != other.cache_use(query(), {}).key


async def test_two_gateways_share_a_redis(redis_server: RedisServer) -> None:
    first, second = ScriptedPipeline(), ScriptedPipeline()
    async with (
        gateway_of(first, redis_url=redis_server.url) as one,
        gateway_of(second, redis_url=redis_server.url) as other,
    ):
        assert (await ask(one, query())).cache == "miss"
        assert (await ask(other, query())).cache == "hit"
    assert second.queries == []


async def test_a_corrupt_value_is_a_miss_and_is_replaced(redis_server: RedisServer) -> None:
    pipeline = ScriptedPipeline()
    async with gateway_of(pipeline, redis_url=redis_server.url) as gateway:
        asked = query(seed=5)
        key = gateway.cache_use(asked, {}).key
        assert key is not None
        assert isinstance(gateway.cache, RedisCache)
        await gateway.cache.put(key, b"garbage")
        assert (await ask(gateway, asked)).cache == "miss"
        assert (await ask(gateway, asked)).cache == "hit"
        assert count(gateway, "router_cache_errors_total", operation="decode") == 1


async def test_no_prompt_reaches_redis_in_the_clear(redis_server: RedisServer) -> None:
    async with gateway_of(ScriptedPipeline(), redis_url=redis_server.url) as gateway:
        asked = query(messages=[{"role": "user", "content": "my diagnosis"}])
        key = gateway.cache_use(asked, {}).key
        assert key is not None
        await ask(gateway, asked)
        assert "diagnosis" not in KEY_PREFIX + key
        assert b"diagnosis" not in (await gateway.cache.get(key) or b"")


async def test_redis_killed_and_restarted_is_invisible_but_for_misses(
    redis_server: RedisServer,
) -> None:
    pipeline = ScriptedPipeline()
    async with gateway_of(pipeline, redis_url=redis_server.url) as gateway:
        assert (await ask(gateway, query())).cache == "miss"
        redis_server.stop()
        assert (await ask(gateway, query())).cache == "miss"
        assert (await ask(gateway, query())).answer.text == LOCAL.text
        redis_server.start()
        assert (await ask(gateway, query())).cache == "miss"
        assert (await ask(gateway, query())).cache == "hit"
        assert count(gateway, "router_cache_errors_total", operation="get") == 2


async def test_the_cache_follows_the_settings() -> None:
    assert isinstance(build_cache(Settings(), Metrics()), MemoryCache)
    redis = build_cache(Settings(redis_url="redis://127.0.0.1:1/0"), Metrics())
    assert isinstance(redis, RedisCache)
    await redis.close()
    chosen = Settings.model_construct(redis_url="gopher://x", cache_ttl=60)
    with pytest.raises(ConfigError, match="redis_url"):
        build_cache(chosen, Metrics())


async def test_a_cached_answer_is_not_changed_by_who_got_it() -> None:
    pipeline = ScriptedPipeline(replace(REMOTE, cost_usd=0.5, saved_usd=0.0))
    async with gateway_of(pipeline) as gateway:
        served = [await ask(gateway, query()) for _ in range(3)]
        assert [one.answer.cost_usd for one in served] == [0.5, 0, 0]
        assert [one.answer.saved_usd for one in served] == [0, 0.5, 0.5]
        assert count(gateway, "router_cost_usd_total") == 0.5
        assert count(gateway, "router_saved_usd_total") == 1.0


class Slow(ScriptedPipeline):
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        super().__init__(before=self._wait)

    async def _wait(self) -> None:
        await self.go_on.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_of_several_gateways_makes_the_answer_the_others_wait_for(
    redis_server: RedisServer,
) -> None:
    pipelines = [Slow() for _ in range(3)]
    async with AsyncExitStack() as stack:
        gateways = [
            await stack.enter_async_context(gateway_of(each, redis_url=redis_server.url))
            for each in pipelines
        ]
        asking = [asyncio.create_task(ask(each, query())) for each in gateways * 4]
        await until(lambda: any(each.queries for each in pipelines))
        await asyncio.sleep(0.2)
        for each in pipelines:
            each.go_on.set()
        served = await asyncio.gather(*asking)
    assert sum(len(each.queries) for each in pipelines) == 1
    assert {each.answer.text for each in served} == {LOCAL.text}


async def test_when_the_gateway_that_makes_it_fails_another_one_does(
    redis_server: RedisServer,
) -> None:
    failing, sound = Slow(), ScriptedPipeline()
    failing.reply = EngineDown("gone")
    async with (
        gateway_of(failing, redis_url=redis_server.url) as one,
        gateway_of(sound, redis_url=redis_server.url) as other,
    ):
        first = asyncio.create_task(ask(one, query()))
        await until(lambda: bool(failing.queries))
        second = asyncio.create_task(ask(other, query()))
        await asyncio.sleep(0.1)
        assert not sound.queries
        failing.go_on.set()
        with pytest.raises(EngineDown):
            await first
        assert (await second).answer.text == LOCAL.text


async def test_a_cancelled_run_lets_another_gateway_have_its_turn(
    redis_server: RedisServer,
) -> None:
    stuck, sound = Slow(), ScriptedPipeline()
    async with (
        gateway_of(stuck, redis_url=redis_server.url) as one,
        gateway_of(sound, redis_url=redis_server.url) as other,
    ):
        first = asyncio.create_task(ask(one, query()))
        await until(lambda: bool(stuck.queries))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await ask(other, query())).cache == "miss"
    assert len(sound.queries) == 1


async def test_local_only_answers_never_reach_redis(redis_server: RedisServer) -> None:
    pipeline = ScriptedPipeline()
    async with gateway_of(pipeline, redis_url=redis_server.url) as gateway:
        asked = query(router={"local_only": True})
        assert [(await ask(gateway, asked)).cache for _ in range(2)] == ["bypass", "bypass"]
        redis = Redis.from_url(redis_server.url)
        assert await redis.keys("*") == []
        await redis.aclose()


async def test_an_answer_older_than_the_caller_wants_is_made_anew() -> None:
    pipeline = ScriptedPipeline()
    async with gateway_of(pipeline) as gateway:
        await ask(gateway, query())
        use = gateway.cache_use(query(), {"cache-control": "max-age=60"})
        young = await gateway.answer(query(), use=use)
        assert (young.cache, len(pipeline.queries)) == ("hit", 1)
        assert young.age is not None
        old = await gateway.answer(query(), use=replace(use, max_age=-1.0))
        assert (old.cache, len(pipeline.queries)) == ("miss", 2)


async def test_no_cache_makes_it_anew_and_keeps_that() -> None:
    first, second = LOCAL, replace(LOCAL, text="Servus!")
    pipeline = ScriptedPipeline(reply=first)
    async with gateway_of(pipeline) as gateway:
        await ask(gateway, query())
        pipeline.reply = second
        use = gateway.cache_use(query(), {"cache-control": "no-cache"})
        assert (await gateway.answer(query(), use=use)).cache == "bypass"
        assert (await ask(gateway, query())).answer.text == "Servus!"


@pytest.mark.parametrize("shared", [True, False])
async def test_purging_by_tenant_and_by_calibration(
    redis_server: RedisServer, shared: bool
) -> None:
    options: dict[str, Any] = {"redis_url": redis_server.url} if shared else {}
    async with gateway_of(ScriptedPipeline(), **options) as gateway:
        for tenant in ("a1", "b2"):
            for i in range(3):
                await ask(gateway, replace(query(seed=i), tenant=tenant))
        assert await gateway.purge(tenant="a1", calibration="sha256:beef") == 0
        assert await gateway.purge(tenant="a1", calibration="sha256:feed") == 3
        assert (await ask(gateway, replace(query(seed=1), tenant="a1"))).cache == "miss"
        assert (await ask(gateway, replace(query(seed=1), tenant="b2"))).cache == "hit"
        assert await gateway.purge(tenant="*") == 0
        assert await gateway.purge() == 4
