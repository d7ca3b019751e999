"""Identical requests at the same time are answered by one run.

A run is an async iterator of events. Those who join it see all events from the first on, however
late they come, while it goes on. It is cancelled when the last of them has left, and forgotten when
it ends: a failure reaches all who wait and nobody after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

from service.errors import stopping

E = TypeVar("E")

Source = Callable[[], AsyncGenerator[E, None]]


class Flight(Generic[E]):
    """One run and those who watch it."""

    def __init__(self, source: Source[E], forget: Callable[[], None]) -> None:
        self._events: list[E] = []
        self._changed = asyncio.Event()
        self._watchers = 0
        self._forget = forget
        self._ended = False
        self._failure: BaseException | None = None
        self._origin: TracebackType | None = None
        self._task = asyncio.create_task(self._run(source))
        self._task.add_done_callback(self._landed)

    @property
    def task(self) -> asyncio.Task[None]:
        return self._task

    def enter(self) -> None:
        self._watchers += 1

    def leave(self) -> None:
        """Give up a seat; the last to go stops the run."""
        self._watchers -= 1
        if self._watchers == 0 and not self._task.done():
            self._forget()
            self._task.cancel()

    async def events(self) -> AsyncGenerator[E, None]:
        """Yield all events of the run. Raises what the run raised."""
        seen = 0
        while True:
            while seen < len(self._events):
                seen += 1
                yield self._events[seen - 1]
            if self._ended:
                self._raise_failure()
                return
            await self._changed.wait()

    async def _run(self, source: Source[E]) -> None:
        try:
            async with aclosing(source()) as events:
                async for event in events:
                    self._events.append(event)
                    self._wake()
        finally:
            self._forget()  # here already: who asks after the last event starts anew

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._forget()
        self._ended = True
        if not task.cancelled():
            self._failure = task.exception()  # seen, even when nobody is left to raise it to
            self._origin = None if self._failure is None else self._failure.__traceback__
        self._wake()

    def _raise_failure(self) -> None:
        if self._task.cancelled():
            raise stopping()
        if self._failure is not None:
            # The same object goes to several watchers; its traceback must not grow with each.
            raise self._failure.with_traceback(self._origin)


class Joined(NamedTuple, Generic[E]):
    """What a seat gives: the run's events, and whether this caller started it."""

    events: AsyncGenerator[E, None]
    leads: bool


class Seat(Generic[E]):
    """A place among those who watch a run; leaving its block gives it up."""

    def __init__(self, flight: Flight[E], *, leads: bool) -> None:
        self._flight = flight
        self._joined = Joined(flight.events(), leads)
        flight.enter()

    async def __aenter__(self) -> Joined[E]:
        return self._joined

    async def __aexit__(self, *_: object) -> None:
        self._flight.leave()
        await self._joined.events.aclose()


class SingleFlight(Generic[E]):
    """The runs that are under way."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[E]] = {}
        self._all: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many runs are under way."""
        return len(self._all)

    def join(self, key: str | None, source: Source[E]) -> Seat[E]:
        """Take a seat in the run of `key`, starting it with `source` when there is none.

        A `key` of None never shares.
        """
        flight = self._by_key.get(key) if key is not None else None
        if flight is None:
            return Seat(self._start(key, source), leads=True)
        return Seat(flight, leads=False)

    async def close(self) -> None:
        """Cancel every run and wait until all have ended."""
        tasks = list(self._all)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: str | None, source: Source[E]) -> Flight[E]:
        flight: Flight[E]

        def forget() -> None:
            if key is not None and self._by_key.get(key) is flight:
                del self._by_key[key]

        flight = Flight(source, forget)
        self._all.add(flight.task)
        flight.task.add_done_callback(self._all.discard)
        if key is not None:
            self._by_key[key] = flight
        return flight
