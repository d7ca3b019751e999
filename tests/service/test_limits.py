"""Requests and tokens a minute: in one process, shared through Redis, and while Redis is down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis.asyncio import Redis

from router.account import Account
from router.config import Settings
from router.engine.messages import TextDelta
from router.errors import ConfigError
from router.keystore import KeyStore
from service.errors import ApiError
from service.limits import (
    KEY_PREFIX,
    Left,
    Limits,
    MemoryLimits,
    RedisLimits,
    build_limits,
    limit_headers,
)
from tests.redis_server import RedisServer
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    QUESTION,
    REMOTE,
    ScriptedPipeline,
    forever,
    make_app,
    running,
    serving,
)

ACCOUNT = Account(id="key_1", requests_per_minute=3, tokens_per_minute=100)
CHAT = "/v1/chat/completions"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def shared(
    server: RedisServer, faults: list[None] | None = None, **options: Any
) -> AsyncIterator[RedisLimits]:
    limits = RedisLimits(server.url, on_fault=lambda: (faults or []).append(None), **options)
    try:
        yield limits
    finally:
        await limits.close()


async def refused(limits: Limits, account: Account = ACCOUNT) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await limits.take(account)
    assert caught.value.status == 429
    assert caught.value.code == "rate_limit_exceeded"
    return caught.value


class TestOneProcess:
    async def test_a_minutes_worth_of_requests_at_once(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        assert [(await limits.take(ACCOUNT)).requests for _ in range(3)] == [2, 1, 0]
        error = await refused(limits)
        assert error.kind == "requests"
        assert error.headers["Retry-After"] == "20"
        assert error.headers["retry-after-ms"] == "20000"
        assert "3 requests a minute" in error.message

    async def test_then_as_many_as_time_brings(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        for _ in range(3):
            await limits.take(ACCOUNT)
        clock.now += 19
        await refused(limits)
        clock.now += 1
        await limits.take(ACCOUNT)
        await refused(limits)
        clock.now += 3600
        assert (await limits.take(ACCOUNT)).requests == 2

    async def test_what_is_refused_counts_nothing(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        for _ in range(3):
            await limits.take(ACCOUNT)
        for _ in range(50):
            await refused(limits)
        clock.now += 20
        await limits.take(ACCOUNT)

    async def test_tokens_may_leave_a_debt_that_time_pays(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        await limits.take(ACCOUNT)
        await limits.charge(ACCOUNT, 150)
        error = await refused(limits)
        assert error.kind == "tokens"
        assert error.headers["Retry-After"] == "31"  # 51 tokens at 100 a minute
        assert error.headers["x-ratelimit-remaining-tokens"] == "0"
        clock.now += 31
        await limits.take(ACCOUNT)

    async def test_each_account_by_itself(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        other = replace(ACCOUNT, id="key_2")
        for _ in range(3):
            await limits.take(ACCOUNT)
        await refused(limits)
        await limits.take(other)

    async def test_what_has_no_limit_is_not_counted(self, clock: Clock) -> None:
        limits = MemoryLimits(clock=clock)
        requests = replace(ACCOUNT, tokens_per_minute=None)
        await limits.charge(requests, 10**9)
        await limits.take(requests)
        tokens = replace(ACCOUNT, id="key_2", requests_per_minute=None)
        for _ in range(100):
            await limits.take(tokens)

    def test_headers_are_openais(self) -> None:
        assert limit_headers(ACCOUNT, Left(2.5, -50)) == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": "2",
            "x-ratelimit-reset-requests": "10.000s",
            "x-ratelimit-limit-tokens": "100",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "90.000s",
        }
        assert limit_headers(Account(), Left(0, 0)) == {}


class TestSharedThroughRedis:
    async def test_all_gateways_together(self, redis_server: RedisServer) -> None:
        account = replace(ACCOUNT, id="key_shared")
        async with shared(redis_server) as one, shared(redis_server) as two:
            left = [(await limits.take(account)).requests for limits in (one, two, one)]
            assert left == pytest.approx([2, 1, 0], abs=0.2)
            for limits in (one, two):
                assert (await refused(limits, account)).kind == "requests"

    async def test_no_request_slips_through_between_two(self, redis_server: RedisServer) -> None:
        account = Account(id="key_race", requests_per_minute=20)

        async def takes(limits: RedisLimits) -> bool:
            try:
                await limits.take(account)
            except ApiError:
                return False
            return True

        async with shared(redis_server) as one, shared(redis_server) as two:
            taken = await asyncio.gather(*(takes(limits) for limits in [one, two] * 50))
        assert 20 <= sum(taken) <= 21  # one more where the hundred took three seconds

    async def test_tokens(self, redis_server: RedisServer) -> None:
        account = replace(ACCOUNT, id="key_tokens")
        async with shared(redis_server) as one, shared(redis_server) as two:
            await one.charge(account, 150)
            error = await refused(two, account)
        assert error.kind == "tokens"
        assert 29 <= int(error.headers["Retry-After"]) <= 31

    async def test_time_is_redis_own(self, redis_server: RedisServer) -> None:
        account = Account(id="key_time", requests_per_minute=600)
        async with shared(redis_server) as limits:
            for _ in range(10):
                await limits.take(account)
            before = (await limits.take(account)).requests
            await asyncio.sleep(0.5)
            after = (await limits.take(account)).requests
        assert after - before >= 4 - 1  # at ten a second, less the one that was taken

    async def test_what_is_kept_goes_when_it_says_nothing(self, redis_server: RedisServer) -> None:
        account = replace(ACCOUNT, id="key_expires")
        redis = Redis.from_url(redis_server.url)
        async with shared(redis_server) as limits:
            await limits.take(account)
            few = await redis.ttl(KEY_PREFIX + account.id)
            await limits.charge(account, 1000)
            many = await redis.ttl(KEY_PREFIX + account.id)
        await redis.aclose()
        assert 15 <= few <= 22
        assert 595 <= many <= 602

    async def test_redis_gone_is_neither_an_error_nor_no_limit(
        self, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        account = replace(ACCOUNT, id="key_gone", requests_per_minute=3)
        faults: list[None] = []
        async with shared(redis_server, faults, pause=0.05) as limits:
            await limits.take(account)
            redis_server.stop()
            await limits.take(account)
            await limits.take(account)
            await limits.charge(account, 10)
            assert (await refused(limits, account)).kind == "requests"
            assert caplog.text.count("each gateway counts limits by itself") == 1
            redis_server.start()  # what it knew is lost: its buckets are full
            await until(lambda: limits._clock() >= limits._retry_at)
            await limits.take(account)

    async def test_redis_hanging_costs_one_wait(self, redis_server: RedisServer) -> None:
        account = Account(id="key_hang", requests_per_minute=2)
        faults: list[None] = []

        def fault() -> None:
            faults.append(None)

        limits = RedisLimits(redis_server.url, on_fault=fault, timeout=0.1, pause=60)
        await limits.take(account)
        redis_server.hang()
        await limits.take(account)
        await refused(limits, account)
        redis_server.go_on()
        await limits.close()
        assert len(faults) == 1

    async def test_garbage_in_its_place(self, redis_server: RedisServer) -> None:
        account = Account(id="key_garbage", requests_per_minute=1)
        redis = Redis.from_url(redis_server.url)
        await redis.set(KEY_PREFIX + account.id, "no hash")
        await redis.aclose()
        faults: list[None] = []
        async with shared(redis_server, faults) as limits:
            await limits.take(account)
            await refused(limits, account)

    def test_which_one_the_settings_ask_for(self) -> None:
        def ignored() -> None: ...

        assert isinstance(build_limits(Settings(), ignored), MemoryLimits)
        url = "redis://127.0.0.1:1/0"
        assert isinstance(build_limits(Settings(redis_url=url), ignored), RedisLimits)
        with pytest.raises(ConfigError, match="redis_url"):
            build_limits(Settings(redis_url="redis://h/0?socket_timeout=soon"), ignored)


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def gateway(
    folder: Path, pipeline: ScriptedPipeline | None = None, **terms: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose key has these `terms`."""
    store = KeyStore(folder / "keys.db")
    key, _ = store.create(Account(name="alice", **terms))
    async with running(make_app(pipeline, keys=str(store.path))) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


class TestOfAGateway:
    async def test_requests(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, requests_per_minute=2) as client:
            responses = [await client.post(CHAT, json=QUESTION) for _ in range(3)]
            assert (await client.get("/v1/models")).status_code == 200  # asks for no work
        assert [response.status_code for response in responses] == [200, 200, 429]
        left = [response.headers["x-ratelimit-remaining-requests"] for response in responses]
        assert left == ["1", "0", "0"]
        assert "x-ratelimit-limit-tokens" not in responses[0].headers
        error = responses[2].json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(responses[2].headers["retry-after"]) <= 30
        assert responses[2].headers["x-request-id"]

    async def test_a_request_that_is_wrong_counts_too(self, tmp_path: Path) -> None:
        async with gateway(tmp_path, requests_per_minute=1) as client:
            assert (await client.post(CHAT, json={})).status_code == 400
            assert (await client.post(CHAT, json=QUESTION)).status_code == 429

    @pytest.mark.parametrize("reply", [LOCAL, REMOTE])
    @pytest.mark.parametrize("path", [CHAT, "/v1/route"])
    async def test_tokens_are_those_of_the_leg_that_answered(
        self, tmp_path: Path, reply: Any, path: str
    ) -> None:
        """11 of the local one, 12 of the upstream."""
        total = 11 if reply is LOCAL else 12
        async with gateway(tmp_path, ScriptedPipeline(reply), tokens_per_minute=1000) as client:
            await client.post(path, json=QUESTION)
            second = await client.post(path, json=QUESTION)
        left = int(second.headers["x-ratelimit-remaining-tokens"])
        assert 1000 - total <= left <= 1000 - total + 10  # some came back meanwhile

    @pytest.mark.parametrize("stream", [False, True])
    async def test_an_answer_that_costs_all_is_the_last(self, tmp_path: Path, stream: bool) -> None:
        async with gateway(tmp_path, tokens_per_minute=5) as client:
            first = await client.post(CHAT, json={**QUESTION, "stream": stream})
            second = await client.post(CHAT, json=QUESTION)
        assert first.status_code == 200
        assert second.status_code == 429
        assert second.json()["error"]["type"] == "tokens"

    async def test_a_stream_that_is_broken_off_counts_what_was_sent(self, tmp_path: Path) -> None:
        pieces = [TextDelta("a ")] * 50
        pipeline = ScriptedPipeline(events=[CONFIDENT, *pieces, forever])
        store = KeyStore(tmp_path / "keys.db")
        key, made = store.create(Account(name="alice", tokens_per_minute=40))
        app = make_app(pipeline, keys=str(store.path))
        with serving(app) as address:
            headers = {"Authorization": f"Bearer {key}"}
            asked = {**QUESTION, "stream": True}
            with httpx.stream("POST", address + CHAT, json=asked, headers=headers) as response:
                lines = response.iter_lines()
                while next(lines).count("a ") == 0:
                    pass
            assert await asyncio.to_thread(pipeline.stopped.wait, 10)
            limits = app.state.gateway.limits
            await until(
                lambda: made.account.id in limits._kept and limits._left(made.account).tokens < 20
            )

    async def test_the_openai_package_waits_and_asks_again(self, tmp_path: Path) -> None:
        store = KeyStore(tmp_path / "keys.db")
        key, _ = store.create(Account(name="alice", requests_per_minute=60))
        app = make_app(keys=str(store.path))
        with serving(app) as address:

            def ask() -> str:
                with openai.OpenAI(base_url=f"{address}/v1", api_key=key) as client:
                    answer = client.chat.completions.create(
                        model="auto", messages=[{"role": "user", "content": "Hi"}]
                    )
                return str(answer.choices[0].message.content)

            account = KeyStore(store.path).all()[0].account
            app.state.gateway.limits.remember(account, Left(0.5, 0))
            assert await asyncio.to_thread(ask) == "Grüße!"
