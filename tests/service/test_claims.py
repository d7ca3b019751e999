"""Claims in a real Redis."""

from __future__ import annotations

import asyncio

import pytest

from service.cache import RedisCache
from service.claims import RedisClaim
from tests.redis_server import RedisServer


async def test_a_claim_is_released_at_whatever_moment_of_its_renewal(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.claims.RENEWAL", 0.0)  # it does nothing else
    cache = RedisCache(redis_server.url, 60, on_fault=lambda _: None, timeout=5.0)
    for i in range(200):
        claim = await cache.claim("a question")
        assert isinstance(claim, RedisClaim), f"the claim before the {i}th was not released"
        for _ in range(i % 20):
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([asyncio.create_task(claim.release())], timeout=10)
        assert done, f"the {i}th release never ended"
    await cache.close()
