"""Work that stops when the client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

T = TypeVar("T")


class ClientGoneError(Exception):
    """The client closed the connection before its answer was there."""


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns, or cancel it when the client closes the connection.

    The request's body must have been read. Raises ClientGoneError, and whatever `work` raises.
    """
    task = asyncio.current_task()
    assert task is not None, "a request is answered inside a task"
    gone = False

    def stop(_: object) -> None:
        nonlocal gone
        gone = True
        task.cancel()

    leaving = asyncio.create_task(_gone(request))
    leaving.add_done_callback(stop)
    try:
        return await work
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:  # nobody else wants it to end
            raise ClientGoneError from None
        raise
    finally:
        leaving.remove_done_callback(stop)
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
