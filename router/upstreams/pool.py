"""Several upstreams behind the face of one.

- Those of the lowest priority number are asked first; among equals one is drawn by weight.
- When one fails, or is left alone, the next one is asked, as long as nothing of an answer has
  reached the caller and time is left. Never after a stream has begun.
- A request that an upstream judges to be wrong is not taken to the next one.
- All of that shares one deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from router.config import Settings
from router.errors import UpstreamError, UpstreamUnavailable
from router.remote import Upstream
from router.remote_body import RemoteAnswer
from router.upstreams.dialect import NotExpressible
from router.upstreams.health import Health, HealthReport, Latencies
from router.upstreams.hedging import race
from router.upstreams.stream import RemoteStream

log = logging.getLogger("router.upstreams")

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that a repeat waits at most where an upstream asks to wait; it rests for longer ones."""


class LLM(Protocol):
    """Who is asked what the local model does not answer: an `Upstream`, or several as one."""

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer: ...

    def stream(self, body: Mapping[str, Any]) -> RemoteStream: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Member:
    """An upstream of the pool, and when it is asked."""

    upstream: Upstream
    priority: int = 0
    weight: float = 1.0

    @property
    def health(self) -> Health:
        health = self.upstream.health
        assert health is not None, "the upstreams of a pool are watched"
        return health


class UpstreamPool:
    """See the module's docstring.

    Parameters
    ----------
    members : at least one; each upstream has a `Health`.
    total : seconds that an answer may take in all.
    hedge : ask a second upstream when the first takes longer than 95% of its last answers did.
    rng : draws among those of one priority.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        total: float = 120.0,
        hedge: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.members = tuple(members)
        self._total = total
        self._hedge = hedge
        self._rng = random.Random() if rng is None else rng

    @classmethod
    def from_settings(cls, settings: Settings) -> UpstreamPool | None:
        """Return the upstreams that `settings` name, with keys from the environment; or None.

        Raises ConfigError when a key can't be sent.
        """
        members = [
            Member(
                Upstream.from_entry(entry, health=Health(entry.name), patience=PATIENCE),
                entry.priority,
                entry.weight,
            )
            for entry in settings.upstream_entries()
        ]
        if not members:
            return None
        hedge = settings.upstream_hedge == "on"
        return cls(members, total=settings.upstream_total_timeout, hedge=hedge)

    async def __aenter__(self) -> UpstreamPool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the object can't be used afterwards."""
        for member in self.members:
            await member.upstream.close()

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        """Ask for a complete answer. As `Upstream.chat`, and raises as that does."""
        deadline = time.monotonic() + self._total

        async def begin(member: Member) -> RemoteAnswer:
            return await member.upstream.chat(body, deadline=deadline)

        return await self._ask(begin, lambda health: health.answers, _nothing_to_drop, deadline)

    def stream(self, body: Mapping[str, Any]) -> RemoteStream:
        """Ask for a streamed answer. As `Upstream.stream`, and raises as that does."""

        def tell(begun: _Begun) -> None:
            told.is_of(begun.chunks)

        told = RemoteStream(self._chunks(body, tell))
        return told

    async def check(self) -> None:
        """Ask all upstreams for their models. Raises UpstreamUnavailable at the first fault."""
        for member in self.members:
            await member.upstream.check()

    def report(self) -> tuple[HealthReport, ...]:
        """How each upstream is doing."""
        return tuple(member.health.report() for member in self.members)

    async def _chunks(
        self, body: Mapping[str, Any], tell: Callable[[_Begun], None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        deadline = time.monotonic() + self._total

        async def begin(member: Member) -> _Begun:
            return await _begin(member.upstream.stream(body, deadline=deadline))

        begun = await self._ask(begin, lambda health: health.first_chunks, _hang_up, deadline)
        tell(begun)
        async with aclosing(begun.chunks) as chunks:
            yield begun.first
            async for chunk in chunks:
                yield chunk

    async def _ask(
        self,
        begin: Callable[[Member], Coroutine[Any, Any, T]],
        latencies: Callable[[Health], Latencies],
        drop: Callable[[T], Awaitable[None]],
        deadline: float,
    ) -> T:
        """What `begin` makes of the first upstream that does not fail.

        `latencies` are those that hedging goes by; `drop` gets a result that came too late.
        """
        waiting = self._drawn()
        faults: list[UpstreamError] = []

        async def timed(member: Member) -> T:
            with _timing(latencies(member.health)):
                return await begin(member)

        def second() -> Coroutine[Any, Any, T] | None:
            free = next((member for member in waiting if member.health.may_hedge()), None)
            if free is None:
                return None
            waiting.remove(free)
            return timed(free)

        while waiting and (not faults or time.monotonic() < deadline):
            if faults:
                log.info("asking the upstream %s instead", waiting[0].upstream.name)
                waiting[0].health.counts.fallbacks += 1
            member = waiting.pop(0)
            usual = latencies(member.health).p95() if self._hedge and waiting else None
            try:
                if usual is None:
                    return await timed(member)
                return await race(timed(member), usual, second, survives=_NEXT, drop=drop)
            except _NEXT as error:
                faults.append(error)
        raise _together(faults)

    def _drawn(self) -> list[Member]:
        """All members in the order in which they are asked: equals by chance, by their weights."""
        # Sorting by u^(1/w) draws without replacement in proportion to w (Efraimidis, Spirakis).
        return sorted(
            self.members,
            key=lambda one: (one.priority, -(self._rng.random() ** (1.0 / one.weight))),
        )


_NEXT = (UpstreamUnavailable, NotExpressible)
"""After these the next upstream is asked."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A stream whose first chunk has come."""

    first: dict[str, Any]
    chunks: RemoteStream


async def _begin(chunks: RemoteStream) -> _Begun:
    try:
        return _Begun(await anext(chunks), chunks)
    except StopAsyncIteration:
        raise UpstreamUnavailable(f"the upstream {chunks.upstream} sent an empty stream") from None


async def _hang_up(begun: _Begun) -> None:
    await begun.chunks.aclose()


async def _nothing_to_drop(_: RemoteAnswer) -> None:
    """A complete answer holds nothing open."""


@contextmanager
def _timing(latencies: Latencies) -> Iterator[None]:
    """Take note of how long an answer takes; of one that was given up, when it took longer."""
    began = time.monotonic()
    try:
        yield
    except asyncio.CancelledError:
        seconds, usual = time.monotonic() - began, latencies.p95()
        if usual is not None and seconds > usual:  # else whoever won would set what is usual
            latencies.add(seconds)
        raise
    latencies.add(time.monotonic() - began)


def _together(faults: Sequence[UpstreamError]) -> UpstreamError:
    """One error for those of all upstreams: rather that they are down than what one can't do."""
    down = [fault for fault in faults if isinstance(fault, UpstreamUnavailable)]
    if len(down) < 2:
        return (down or faults)[0]
    pauses = [fault.retry_after for fault in down if fault.retry_after is not None]
    said = "; ".join(str(fault) for fault in down)
    return UpstreamUnavailable(said, min(pauses, default=None))
