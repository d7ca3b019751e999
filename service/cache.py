"""Where finished answers are kept: in this process, or in Redis.

A cache holds opaque bytes under the keys of `service.keys` and does not raise: what it can't do is
a miss. Only who purges it hears of a fault.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from router.bounded import bounded
from service.claims import LEASE, UNSHARED, Claim, RedisClaim

logger = logging.getLogger(__name__)

Operation = Literal["get", "put", "decode", "claim"]
OnFault = Callable[[Operation], None]
Clock = Callable[[], float]

KEY_PREFIX = "router:2:"
"""The number is the version of what is stored; raise it when `service.stored` changes."""

MAX_VALUE_BYTES = 2**20
"""A larger answer (compressed) is not kept."""

MAX_MEMORY_BYTES = 128 * 2**20
"""What the cache in memory holds at most, however many entries it may have."""

CLAIM_PREFIX = "router:claim:"

REDIS_TIMEOUT = 0.5
"""Seconds a Redis operation may take. A local one takes under a millisecond."""

REDIS_PAUSE = 1.0
"""Seconds Redis is left alone after a fault, so that one that hangs delays few requests."""

SECONDS_BETWEEN_LOGS = 5.0


class Cache(Protocol):
    """Keeps bytes under a key for a while. Never raises for what happens outside the process."""

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""

    async def put(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`, if there is room for it."""

    async def claim(self, key: str) -> Claim | None:
        """Claim what is to be kept under `key`; None while another process has it."""

    async def purge(self, *, tenant: str | None = None, calibration: str | None = None) -> int:
        """Forget what is kept under keys of these parts, None being any; return how many.

        Raises RedisError and OSError, unlike the rest: nobody may believe that it is done.
        """

    @property
    def on_this_machine(self) -> bool:
        """Whether what is kept stays in this process."""

    async def close(self) -> None:
        """Release what the cache holds open."""


class MemoryCache:
    """The least recently used entries go first, when either bound is reached.

    Parameters
    ----------
    max_entries : how many entries are kept; 0 keeps none.
    ttl : seconds an entry stays valid.
    max_bytes : how much all values together may take.
    """

    def __init__(
        self,
        max_entries: int,
        ttl: float,
        *,
        max_bytes: int = MAX_MEMORY_BYTES,
        clock: Clock = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, value = entry
        if self._clock() >= expires:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes) -> None:
        self._drop(key)
        if len(value) > min(MAX_VALUE_BYTES, self._max_bytes):
            return
        self._entries[key] = (self._clock() + self._ttl, value)
        self._bytes += len(value)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    async def claim(self, key: str) -> Claim | None:  # noqa: ARG002 - nobody to share it with
        return UNSHARED

    async def purge(self, *, tenant: str | None = None, calibration: str | None = None) -> int:
        keys = [
            key
            for key in self._entries
            for of, by, _ in [key.rsplit(":", 2)]
            if tenant in (None, of) and calibration in (None, by)
        ]
        for key in keys:
            self._drop(key)
        return len(keys)

    @property
    def on_this_machine(self) -> bool:
        return True

    async def close(self) -> None:
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= len(entry[1])


class RedisCache:
    """Shared between gateways. Redis refusing, hanging or restarting costs misses, nothing else.

    After a fault Redis is left alone for `pause` seconds; then the next request tries it again. One
    that answers, but takes nothing (it is full, or read-only), is still asked for what it has.

    Parameters
    ----------
    url : ``redis://``, ``rediss://`` or ``unix://``. Raises ValueError for another scheme.
    ttl : seconds an entry stays valid.
    on_fault : told of every fault, with the operation that failed.
    """

    def __init__(
        self,
        url: str,
        ttl: int,
        *,
        on_fault: OnFault,
        timeout: float = REDIS_TIMEOUT,
        pause: float = REDIS_PAUSE,
        clock: Clock = time.monotonic,
    ) -> None:
        self._ttl = ttl
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._on_fault = on_fault
        self._retry_at = 0.0
        self._log_at = 0.0
        self._failing: set[Operation] = set()
        self._releases: set[asyncio.Task[None]] = set()
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=32,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # Once more at once: after a restart of Redis the pool is full of dead connections.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis = Redis(connection_pool=pool)

    async def get(self, key: str) -> bytes | None:
        if self._clock() < self._retry_at:
            return None
        try:
            async with bounded(2 * self._timeout):
                value = await self._redis.get(KEY_PREFIX + key)
        except (RedisError, OSError) as exc:
            self._fault("get", exc)
            return None
        self._works("get")
        return value if isinstance(value, bytes) else None

    async def put(self, key: str, value: bytes) -> None:
        if len(value) > MAX_VALUE_BYTES or self._clock() < self._retry_at:
            return
        try:
            async with bounded(2 * self._timeout):
                await self._redis.set(KEY_PREFIX + key, value, ex=self._ttl)
        except (RedisError, OSError) as exc:
            self._fault("put", exc)
            return
        self._works("put")

    async def claim(self, key: str) -> Claim | None:
        if self._clock() < self._retry_at:
            return UNSHARED
        lock = self._redis.lock(CLAIM_PREFIX + key, timeout=LEASE, blocking=False)
        try:
            async with bounded(2 * self._timeout):
                ours = await lock.acquire()
        except (RedisError, OSError) as exc:
            self._fault("claim", exc)
            return UNSHARED
        self._works("claim")
        return RedisClaim(lock, self._releases) if ours else None

    async def purge(self, *, tenant: str | None = None, calibration: str | None = None) -> int:
        tenants = "*" if tenant is None else _literally(tenant)
        calibrations = "*" if calibration is None else _literally(calibration)
        pattern = f"{KEY_PREFIX}{tenants}:{calibrations}:*"
        n = 0
        try:
            async for key in self._redis.scan_iter(pattern, count=1000):
                n += await self._redis.unlink(key)
        except (TypeError, ValueError) as exc:
            raise RedisError(f"it does not answer as Redis does: {exc!r}") from exc
        return n

    @property
    def on_this_machine(self) -> bool:
        return False

    async def close(self) -> None:
        await asyncio.gather(*self._releases, return_exceptions=True)
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _fault(self, operation: Operation, exc: RedisError | OSError) -> None:
        self._failing.add(operation)
        now = self._clock()
        if not isinstance(exc, ResponseError):  # it is there and says no: full, read-only
            self._retry_at = now + self._pause
        self._on_fault(operation)
        if now >= self._log_at:
            self._log_at = now + SECONDS_BETWEEN_LOGS
            logger.warning(
                "redis failed; answers are not cached until it is back",
                extra={"operation": operation, "error": type(exc).__name__},
            )

    def _works(self, operation: Operation) -> None:
        if operation in self._failing:
            self._failing.remove(operation)
            if not self._failing:
                self._log_at = 0.0
                logger.info("redis is back")


def _literally(text: str) -> str:
    """Return a pattern of Redis' that matches `text` alone."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
