"""The caches: bounds, expiry, and a Redis that goes away, hangs and comes back."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.asyncio import Redis

from service.cache import KEY_PREFIX, MAX_VALUE_BYTES, MemoryCache, Operation, RedisCache
from service.claims import UNSHARED
from tests.redis_server import RedisServer


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_memory_keeps_and_replaces() -> None:
    cache = MemoryCache(10, 60)
    assert await cache.get("a") is None
    await cache.put("a", b"1")
    await cache.put("a", b"2")
    assert await cache.get("a") == b"2"
    assert len(cache) == 1
    await cache.close()
    assert await cache.get("a") is None


async def test_memory_forgets_the_least_recently_used() -> None:
    cache = MemoryCache(2, 60)
    await cache.put("a", b"1")
    await cache.put("b", b"2")
    await cache.get("a")
    await cache.put("c", b"3")
    assert await cache.get("b") is None
    assert await cache.get("a") == b"1"
    assert await cache.get("c") == b"3"


async def test_memory_is_bounded_in_bytes_too() -> None:
    cache = MemoryCache(100, 60, max_bytes=10)
    await cache.put("a", b"1234")
    await cache.put("b", b"1234")
    await cache.put("c", b"1234")
    assert await cache.get("a") is None
    assert len(cache) == 2
    await cache.put("huge", b"x" * 11)
    assert await cache.get("huge") is None
    assert len(cache) == 2


async def test_memory_expires() -> None:
    clock = Clock()
    cache = MemoryCache(10, 60, clock=clock)
    await cache.put("a", b"1")
    clock.now = 59.9
    assert await cache.get("a") == b"1"
    clock.now = 60.0
    assert await cache.get("a") is None
    assert len(cache) == 0


async def test_memory_of_size_zero_keeps_nothing() -> None:
    cache = MemoryCache(0, 60)
    await cache.put("a", b"1")
    assert await cache.get("a") is None


class Redises:
    """A cache on a Redis server, and the faults it told of; patient, for busy machines."""

    def __init__(self, server: RedisServer, *, timeout: float = 5.0) -> None:
        self.faults: list[Operation] = []
        self.clock = Clock()
        self.cache = RedisCache(
            server.url, 60, on_fault=self.faults.append, clock=self.clock, timeout=timeout
        )

    def later(self) -> None:
        """Let the pause after a fault pass."""
        self.clock.now += 1.0


async def test_redis_keeps_under_hashed_keys_with_an_expiry(redis_server: RedisServer) -> None:
    redises = Redises(redis_server)
    cache = redises.cache
    assert await cache.get("key") is None
    await cache.put("key", b"\x00\xff")
    assert await cache.get("key") == b"\x00\xff"
    async with Redis.from_url(redis_server.url) as client:
        assert await client.keys() == [(KEY_PREFIX + "key").encode()]
        assert 0 < await client.ttl(KEY_PREFIX + "key") <= 60
    assert redises.faults == []
    await cache.close()


async def test_redis_does_not_get_values_that_are_too_large(redis_server: RedisServer) -> None:
    redises = Redises(redis_server)
    await redises.cache.put("key", b"x" * (MAX_VALUE_BYTES + 1))
    assert await redises.cache.get("key") is None
    await redises.cache.close()


async def test_redis_down_is_a_miss_and_up_again_is_a_hit(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service")
    redises = Redises(redis_server)
    cache = redises.cache
    await cache.put("key", b"1")
    redis_server.stop()
    assert await cache.get("key") is None
    redises.later()
    await cache.put("key", b"2")
    assert redises.faults == ["get", "put"]
    redis_server.start()
    redises.later()
    await cache.put("key", b"3")
    assert await cache.get("key") == b"3"
    assert redises.faults == ["get", "put"]
    assert [record.message for record in caplog.records] == [
        "redis failed; answers are not cached until it is back",
        "redis is back",
    ]
    await cache.close()


async def test_a_restart_between_two_calls_is_not_even_a_fault(redis_server: RedisServer) -> None:
    redises = Redises(redis_server)
    await redises.cache.put("key", b"1")
    redis_server.stop()
    redis_server.start()
    assert await redises.cache.get("key") is None
    assert redises.faults == []
    await redises.cache.close()


async def test_redis_that_hangs_costs_one_wait_then_is_left_alone(
    redis_server: RedisServer,
) -> None:
    redises = Redises(redis_server, timeout=0.5)
    cache = redises.cache
    await cache.put("key", b"1")
    redis_server.hang()
    assert await cache.get("key") is None
    assert await cache.get("key") is None
    await cache.put("key", b"2")
    assert redises.faults == ["get"]
    redises.later()
    await cache.put("key", b"2")
    assert redises.faults == ["get", "put"]
    redis_server.go_on()
    redises.later()
    assert await cache.get("key") is not None
    await cache.close()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "read-only"],
)
async def test_redis_that_takes_nothing_goes_on_giving_what_it_has(
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    begin: tuple[str, ...],
    end: tuple[str, ...],
) -> None:
    caplog.set_level(logging.INFO, "service")
    redises = Redises(redis_server)
    await redises.cache.put("key", b"1")
    async with Redis.from_url(redis_server.url) as client:
        await client.execute_command(*begin)  # type: ignore[no-untyped-call]  # redis-py's
        for _ in range(5):
            await redises.cache.put("other", b"2")
            assert await redises.cache.get("key") == b"1"
            assert await redises.cache.claim("other") is UNSHARED
        assert redises.faults == ["put", "claim"] * 5
        await client.execute_command(*end)  # type: ignore[no-untyped-call]  # redis-py's
    await redises.cache.put("other", b"2")
    claim = await redises.cache.claim("other")
    assert claim is not None
    await claim.release()
    assert [record.message for record in caplog.records] == [
        "redis failed; answers are not cached until it is back",
        "redis is back",
    ]
    await redises.cache.close()


async def test_redis_serves_more_than_it_has_connections(redis_server: RedisServer) -> None:
    redises = Redises(redis_server)
    await redises.cache.put("key", b"1")
    assert await asyncio.gather(*(redises.cache.get("key") for _ in range(200))) == [b"1"] * 200
    assert redises.faults == []
    await redises.cache.close()


async def test_faults_are_logged_at_most_every_few_seconds(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redises = Redises(redis_server)
    redis_server.stop()
    for _ in range(10):
        await redises.cache.get("key")
        redises.later()
    assert len(redises.faults) == 10
    assert len(caplog.records) == 2
    await redises.cache.close()


async def test_a_key_of_another_type_is_a_miss(redis_server: RedisServer) -> None:
    redises = Redises(redis_server)
    async with Redis.from_url(redis_server.url) as client:
        await client.sadd(KEY_PREFIX + "key", "x")
    assert await redises.cache.get("key") is None
    assert redises.faults == ["get"]
    await redises.cache.close()
