"""Two calls for one answer: the second begins when the first is slow, the first to succeed wins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def race(
    first: Coroutine[Any, Any, T],
    wait: float,
    second: Callable[[], Coroutine[Any, Any, T] | None],
    *,
    survives: tuple[type[Exception], ...],
    drop: Callable[[T], Awaitable[None]],
) -> T:
    """Return what `first` gives, or `second()`, which begins after `wait` seconds.

    An error of a type in `survives` waits for the other's result; any other one ends the race. The
    loser is cancelled before this returns, and `drop` gets a result that came too late. Raises the
    first's error when both fail. `second` may decline by returning None.
    """
    tasks = [asyncio.create_task(first)]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait(tasks, timeout=wait)
        if not tasks[0].done() and (other := second()) is not None:
            tasks.append(asyncio.create_task(other))
        running = set(tasks)
        while running and winner is None:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            ended = (task for task in tasks if task.done())
            winner = next((t for t in ended if not isinstance(t.exception(), survives)), None)
        winner = winner or tasks[0]
        return winner.result()
    finally:
        losers = [task for task in tasks if task is not winner]
        for task in losers:
            task.cancel()
        for result in await asyncio.gather(*losers, return_exceptions=True):
            if not isinstance(result, BaseException):
                await drop(result)
