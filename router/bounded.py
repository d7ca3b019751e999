"""A time limit around calls of redis-py that a cancellation ends too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Let the block take so many seconds. Raises TimeoutError after that.

    redis-py writes by `asyncio.wait_for`, which on Python 3.11 loses a cancellation that comes just
    as it is done: the task would go on as if nobody had cancelled it, and who waits for its end
    would wait for ever. Such a cancellation is raised at the end of the block.
    """
    task = asyncio.current_task()
    assert task is not None, "it is awaited, so there is a task"
    before = task.cancelling()
    try:
        async with asyncio.timeout(seconds):
            yield
    finally:  # also where something failed after it was lost
        if task.cancelling() > before:
            raise asyncio.CancelledError
