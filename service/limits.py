"""How many requests and tokens a minute a key's holder has left.

A bucket each, which holds a minute's worth and refills all the time. A request takes one from the
first and is let in while the second is not empty; its tokens are taken when they are known, after
the answer, and may leave a debt, which the refilling pays off. So a limit is overrun by what is
under way at most, and never in the long run.

The buckets are Redis' where there is one, so that all gateways share them, else this process's.
While Redis does not work each process goes on with what it last knew.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from router.account import Account
from router.bounded import bounded
from router.config import Settings
from router.errors import ConfigError
from service.errors import ApiError

logger = logging.getLogger(__name__)

KEY_PREFIX = "router:limits:1:"
"""The number is the version of what is stored."""

REDIS_TIMEOUT = 0.5
"""Seconds Redis may take to answer. A local one takes under a millisecond."""

REDIS_PAUSE = 1.0
"""Seconds Redis is left alone after a fault, so that one that hangs delays few requests."""

What = Literal["requests", "tokens"]
Clock = Callable[[], float]
OnFault = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Left:
    """What two buckets hold; negative is a debt. Meaningless where there is no limit."""

    requests: float
    tokens: float


class Limits(Protocol):
    """Counts what accounts with limits ask for. Never raises for what happens to Redis."""

    async def take(self, account: Account) -> Left:
        """Count one request of `account`, and return what is left then.

        Raises ApiError, and counts nothing, when a bucket is empty.
        """

    async def charge(self, account: Account, tokens: int) -> None:
        """Count the tokens of an answer."""

    async def close(self) -> None: ...


class MemoryLimits:
    """The buckets of this process alone."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, tuple[Left, float]] = {}

    async def take(self, account: Account) -> Left:
        left = self._left(account)
        refuse_if_empty(account, left)
        return self.remember(account, Left(left.requests - 1, left.tokens))

    async def charge(self, account: Account, tokens: int) -> None:
        if account.tokens_per_minute is not None and tokens:
            left = self._left(account)
            self.remember(account, Left(left.requests, left.tokens - tokens))

    async def close(self) -> None:
        self._kept.clear()

    def remember(self, account: Account, left: Left) -> Left:
        """Have the buckets hold `left` as of now."""
        self._kept[account.id] = left, self._clock()
        return left

    def _left(self, account: Account) -> Left:
        full = Left(account.requests_per_minute or 0, account.tokens_per_minute or 0)
        if account.id not in self._kept:
            return full
        left, at = self._kept[account.id]
        minutes = (self._clock() - at) / 60
        return Left(
            min(full.requests, left.requests + minutes * full.requests),
            min(full.tokens, left.tokens + minutes * full.tokens),
        )


_SCRIPT = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local kept = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at')
local minutes = math.max(0, now - (tonumber(kept[3]) or now)) / 60
local function refilled(left, limit)
  return math.min(limit, (tonumber(left) or limit) + minutes * limit)
end
local limits = {tonumber(ARGV[1]), tonumber(ARGV[2])}
local take, charge = tonumber(ARGV[3]), tonumber(ARGV[4])
local left = {refilled(kept[1], limits[1]), refilled(kept[2], limits[2])}
local empty = (limits[1] > 0 and left[1] < 1) or (limits[2] > 0 and left[2] < 1)
if take > 0 and empty then
  take = 0
end
left = {left[1] - take, left[2] - charge}
redis.call('HSET', KEYS[1], 'requests', tostring(left[1]), 'tokens', tostring(left[2]),
           'at', string.format('%.6f', now))
local full_in = 1
for i = 1, 2 do
  if limits[i] > 0 then
    full_in = math.max(full_in, math.ceil((limits[i] - left[i]) / limits[i] * 60) + 1)
  end
end
redis.call('EXPIRE', KEYS[1], full_in)
return {take, tostring(left[1]), tostring(left[2])}
"""
"""Refills both buckets, takes a request if asked to and none is empty, charges tokens.

One step for everybody, by Redis' own clock. A hash that expired belonged to full buckets.
"""


class RedisLimits:
    """The buckets of all gateways of one Redis; while it does not work, those of this process.

    Parameters
    ----------
    url : ``redis://``, ``rediss://`` or ``unix://``. Raises ValueError for another scheme.
    on_fault : told of every fault.
    """

    def __init__(
        self,
        url: str,
        *,
        on_fault: OnFault,
        timeout: float = REDIS_TIMEOUT,
        pause: float = REDIS_PAUSE,
        clock: Clock = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._on_fault = on_fault
        self._retry_at = 0.0
        self._faulty = False
        self._own = MemoryLimits(clock=clock)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=16,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Once more at once: after a restart of Redis the pool is full of dead connections.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis(connection_pool=pool)
        self._script = self._redis.register_script(_SCRIPT)

    async def take(self, account: Account) -> Left:
        shared = await self._shared(account, take=1)
        if shared is None:
            return await self._own.take(account)
        taken, left = shared
        self._own.remember(account, left)
        if not taken:
            refuse_if_empty(account, left)
        return left

    async def charge(self, account: Account, tokens: int) -> None:
        if account.tokens_per_minute is None or not tokens:
            return
        shared = await self._shared(account, charge=tokens)
        if shared is None:
            await self._own.charge(account, tokens)
        else:
            self._own.remember(account, shared[1])

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _shared(
        self, account: Account, *, take: int = 0, charge: int = 0
    ) -> tuple[bool, Left] | None:
        """Whether a request was taken, and what is left; None when Redis can't tell."""
        if self._clock() < self._retry_at:
            return None
        limits = (account.requests_per_minute or 0, account.tokens_per_minute or 0)
        try:
            async with bounded(2 * self._timeout):
                said = await self._script(
                    keys=[KEY_PREFIX + account.id], args=[*limits, take, charge]
                )
            taken, requests, tokens = said
            left = Left(float(requests), float(tokens))
        except (RedisError, OSError, TypeError, ValueError) as exc:
            self._fault(exc)
            return None
        self._works()
        return bool(taken), left

    def _fault(self, exc: Exception) -> None:
        self._retry_at = self._clock() + self._pause
        self._on_fault()
        if not self._faulty:
            logger.warning(
                "redis failed; each gateway counts limits by itself until it is back",
                extra={"error": type(exc).__name__},
            )
        self._faulty = True

    def _works(self) -> None:
        if self._faulty:
            self._faulty = False
            logger.info("redis is back; limits are shared again")


def build_limits(settings: Settings, on_fault: OnFault) -> Limits:
    """Return the limits that `settings` ask for. Raises ConfigError for a URL that is none."""
    if settings.redis_url is None:
        return MemoryLimits()
    try:
        return RedisLimits(settings.redis_url, on_fault=on_fault)
    except ValueError as exc:
        raise ConfigError(f"`redis_url` is not an address of a Redis server: {exc}") from None


def limited(account: Account) -> bool:
    """Whether anything is to be counted."""
    return account.requests_per_minute is not None or account.tokens_per_minute is not None


def limit_headers(account: Account, left: Left) -> dict[str, str]:
    """Return OpenAI's headers: the limits, what is left of them, and when they will be whole."""
    headers = {}
    for what, limit, have in _buckets(account, left):
        headers[f"x-ratelimit-limit-{what}"] = str(limit)
        headers[f"x-ratelimit-remaining-{what}"] = str(max(0, math.floor(have)))
        headers[f"x-ratelimit-reset-{what}"] = f"{(limit - have) / limit * 60:.3f}s"
    return headers


def refuse_if_empty(account: Account, left: Left) -> None:
    """Raise the 429 when a bucket is empty; its `Retry-After` says when both will not be."""
    waits = {
        what: (1 - have) / limit * 60 for what, limit, have in _buckets(account, left) if have < 1
    }
    if not waits:
        return
    what = max(waits, key=lambda name: waits[name])
    limit = account.requests_per_minute if what == "requests" else account.tokens_per_minute
    seconds = waits[what]
    raise ApiError(
        429,
        f"Rate limit reached: this key may use {limit} {what} a minute. "
        f"Please try again in {seconds:.3g} s.",
        code="rate_limit_exceeded",
        kind=what,
        headers={
            "Retry-After": str(math.ceil(seconds)),
            "retry-after-ms": str(math.ceil(seconds * 1000)),
            **limit_headers(account, left),
        },
    )


def _buckets(account: Account, left: Left) -> list[tuple[What, int, float]]:
    """Each bucket there is: what it counts, how much it can hold, how much it does."""
    found: list[tuple[What, int, float]] = []
    if account.requests_per_minute is not None:
        found.append(("requests", account.requests_per_minute, left.requests))
    if account.tokens_per_minute is not None:
        found.append(("tokens", account.tokens_per_minute, left.tokens))
    return found
