"""Whose turn it is to make an answer that several gateways are asked for at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from redis.asyncio.lock import Lock
from redis.exceptions import RedisError

from router.bounded import bounded

T = TypeVar("T")

LEASE = 6.0
"""Seconds a claim outlives a gateway that died with it."""

RENEWAL = LEASE / 3
"""Seconds between two renewals of a claim that is held."""

PATIENCE = 60.0
"""Seconds to wait for another gateway's answer before making one of our own."""

POLL = 0.05
"""Seconds between two looks whether the other gateway is done."""


class Claim(Protocol):
    """The right to make an answer, until it is released."""

    async def release(self) -> None:
        """Let others have their turn."""


class Claimer(Protocol):
    """The part of a cache that says whose turn it is."""

    async def claim(self, key: str) -> Claim | None:
        """Claim what is to be kept under `key`; None while another has it. Never raises."""


class Unshared:
    """The claim of a gateway that has nobody to share with."""

    async def release(self) -> None:
        return


UNSHARED = Unshared()


class RedisClaim:
    """A lock in Redis, renewed as long as it is held.

    `releases` holds what is under way to release it: that goes on when who waits for it is
    cancelled, as the run of an answer is as soon as all have it.
    """

    def __init__(self, lock: Lock, releases: set[asyncio.Task[None]]) -> None:
        self._lock = lock
        self._releases = releases
        self._renewing = asyncio.create_task(self._renew())

    async def release(self) -> None:
        releasing = asyncio.create_task(self._release())
        self._releases.add(releasing)
        releasing.add_done_callback(self._releases.discard)
        await asyncio.shield(releasing)

    async def _release(self) -> None:
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        with contextlib.suppress(RedisError, OSError, TimeoutError):  # then its lease ends it
            async with bounded(LEASE):
                await self._lock.release()

    async def _renew(self) -> None:
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            while True:
                await asyncio.sleep(RENEWAL)
                async with bounded(LEASE):
                    await self._lock.reacquire()


@asynccontextmanager
async def found_or_ours(
    claimer: Claimer,
    key: str,
    look_up: Callable[[str], Awaitable[T | None]],
    *,
    patience: float = PATIENCE,
) -> AsyncIterator[T | None]:
    """Give what is kept under `key`, or None when it is this gateway's turn to make it.

    While another gateway makes it, wait; it is ours for the length of the block.
    """
    until = time.monotonic() + patience
    found = await look_up(key)
    while found is None:
        claim = await claimer.claim(key)
        if claim is not None or time.monotonic() > until:
            try:
                yield None
            finally:
                if claim is not None:
                    await claim.release()
            return
        await asyncio.sleep(POLL)
        found = await look_up(key)
    yield found
