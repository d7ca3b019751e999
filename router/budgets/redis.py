"""Budgets in Redis: for gateways on several machines. Each step is one Lua script."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from router.bounded import bounded
from router.budgets.base import (
    KEPT_SECONDS,
    PEER_SECONDS,
    Asked,
    Granted,
    Look,
    Seen,
    Settled,
    Sheet,
)
from router.budgets.limits import Purse
from router.errors import LedgerError

PREFIX = "router:{budget}:1:"
"""The number is the version of what is stored; the braces keep all on one node of a cluster."""

TIMEOUT = 1.0
"""Seconds an operation may take: an escalation waits for it."""

# Amounts go in as strings, since Lua prints large numbers rounded, and are added by HINCRBY, which
# is exact; compared as doubles they are exact up to 9 million USD.
_SHEET = """
local function raise(key, field, known)
  local now = tonumber(redis.call('HGET', key, field) or '0')
  if now < tonumber(known) then redis.call('HSET', key, field, known) end
end
local function look(key, spent, calls)
  raise(key, 'spent', spent)
  raise(key, 'calls', calls)
  local found = redis.call('HMGET', key, 'spent', 'reserved', 'calls', 'asked', 'forced')
  for i = 1, 5 do found[i] = found[i] or '0' end
  return found
end
"""

# KEYS: the call, its purses. ARGV: amount, seconds to keep the call; for each purse its limit, what
# is known to be spent and called, and for how long it is kept.
_RESERVE = (
    _SHEET
    + """
local sheets, refused = {}, 0
local there = redis.call('EXISTS', KEYS[1]) == 1
for i = 2, #KEYS do
  local at = 4 * i - 5
  local sheet = look(KEYS[i], ARGV[at + 1], ARGV[at + 2])
  local after = tonumber(sheet[1]) + tonumber(sheet[2]) + tonumber(ARGV[1])
  if not there and refused == 0 and after > tonumber(ARGV[at]) then refused = i - 1 end
  sheets[i - 1] = sheet
end
if not there and refused == 0 then
  for i = 2, #KEYS do
    redis.call('HINCRBY', KEYS[i], 'reserved', ARGV[1])
    sheets[i - 1][2] = redis.call('HGET', KEYS[i], 'reserved')
    redis.call('EXPIRE', KEYS[i], ARGV[4 * i - 2])
  end
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
return {refused, sheets}
"""
)

# KEYS: the call, its purses. ARGV: cost, seconds to keep the call, forced, 1 for a call that cost
# something; for how long each purse is kept.
_SETTLE = """
local reserved = redis.call('GET', KEYS[1])
if reserved == 'settled' then return 0 end
redis.call('SET', KEYS[1], 'settled', 'EX', ARGV[2])
for i = 2, #KEYS do
  redis.call('HINCRBY', KEYS[i], 'spent', ARGV[1])
  redis.call('HINCRBY', KEYS[i], 'forced', ARGV[3])
  redis.call('HINCRBY', KEYS[i], 'calls', ARGV[4])
  if reserved then redis.call('HINCRBY', KEYS[i], 'reserved', '-' .. reserved) end
  redis.call('EXPIRE', KEYS[i], ARGV[i + 3])
end
return 1
"""

# KEYS: purses. ARGV: for each what is known to be spent and called, and for how long it is kept.
_LOOK = (
    _SHEET
    + """
local sheets = {}
for i = 1, #KEYS do
  sheets[i] = look(KEYS[i], ARGV[3 * i - 2], ARGV[3 * i - 1])
  redis.call('EXPIRE', KEYS[i], ARGV[3 * i])
end
return sheets
"""
)


class RedisStore:
    """Connects at the first use. Raises LedgerError when `url` is no address of a Redis server."""

    shared = True

    def __init__(
        self, url: str, *, timeout: float = TIMEOUT, clock: Callable[[], float] = time.time
    ) -> None:
        self._timeout = timeout
        self._clock = clock
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=8,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                decode_responses=True,
                # Once more at once: after a restart of Redis the pool's connections are dead.
                retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            )
        except ValueError as error:
            raise LedgerError(f"`redis_url` is not an address of a Redis server: {error}") from None
        self._redis = Redis(connection_pool=pool)
        self._reserve = self._redis.register_script(_RESERVE)

    async def reserve(self, id: str, looks: Sequence[Look], amount: int) -> Granted:
        values: list[str | int] = [amount, KEPT_SECONDS]
        for look in looks:
            values += [look.purse.limit, look.known.spent, look.known.calls, self._left(look.purse)]
        async with self._faults():
            refused, sheets = await self._reserve(
                keys=[_call(id), *(_purse(look.purse) for look in looks)], args=values
            )
            return Granted(int(refused) - 1 if refused else None, _sheets(sheets))

    async def sync(
        self,
        process: str,
        settled: Sequence[Settled],
        asked: Sequence[Asked],
        looks: Sequence[Look],
    ) -> Seen:
        now = self._clock()
        async with self._faults():
            pipe = self._redis.pipeline(transaction=False)
            for call in settled:
                keys = [_call(call.id), *map(_purse, call.purses)]
                told = [call.cost, KEPT_SECONDS, call.cost * call.forced, int(call.cost > 0)]
                pipe.eval(_SETTLE, len(keys), *keys, *told, *map(self._left, call.purses))
            for some in asked:
                for purse in some.purses:
                    pipe.hincrby(_purse(purse), "asked", some.n)
            pipe.zadd(_PROCESSES, {process: now})
            pipe.zremrangebyscore(_PROCESSES, "-inf", now - PEER_SECONDS)
            pipe.zcard(_PROCESSES)
            known = [
                value
                for look in looks
                for value in (look.known.spent, look.known.calls, self._left(look.purse))
            ]
            pipe.eval(_LOOK, len(looks), *(_purse(look.purse) for look in looks), *known)
            *_, n, sheets = await pipe.execute()
            return Seen(_sheets(sheets), int(n))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _left(self, purse: Purse) -> int:
        """Seconds for which a purse is kept."""
        return max(0, int(purse.ends - self._clock())) + KEPT_SECONDS

    @contextlib.asynccontextmanager
    async def _faults(self) -> AsyncIterator[None]:
        try:
            async with bounded(2 * self._timeout):
                yield
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            what = str(error) or type(error).__name__
            raise LedgerError(f"can't count budgets in Redis: {what}") from error
        except (TypeError, ValueError) as error:
            raise LedgerError(f"Redis holds no budgets of ours: {error}") from error


_PROCESSES = PREFIX + "processes"


def _call(id: str) -> str:
    return f"{PREFIX}call:{id}"


def _purse(purse: Purse) -> str:
    return f"{PREFIX}purse:{purse.name}"


def _sheets(found: Any) -> tuple[Sheet, ...]:
    return tuple(Sheet(*map(int, values)) for values in found)
