"""A time limit that loses no cancellation."""

from __future__ import annotations

import asyncio

import pytest

from router.bounded import bounded


async def wait_as_redis_py_does(written: asyncio.Event) -> None:
    await asyncio.wait_for(written.wait(), 10)


async def test_a_cancellation_just_as_a_write_is_done_is_not_lost() -> None:
    written = asyncio.Event()

    async def work() -> None:
        while True:
            async with bounded(10):
                await wait_as_redis_py_does(written)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    written.set()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()


async def test_nor_where_something_fails_after_it() -> None:
    written = asyncio.Event()
    went_on = False

    async def work() -> None:
        nonlocal went_on
        try:
            async with bounded(10):
                await wait_as_redis_py_does(written)
                raise ConnectionError("Redis hung up")
        except ConnectionError:
            went_on = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    written.set()
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert not went_on


async def test_what_takes_too_long_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with bounded(0.01):
            await asyncio.sleep(10)


async def test_an_error_comes_through() -> None:
    with pytest.raises(ConnectionError):
        async with bounded(10):
            raise ConnectionError("refused")


async def test_a_cancelled_task_may_still_tidy_up_within_it() -> None:
    tidied = False

    async def work() -> None:
        nonlocal tidied
        try:
            await asyncio.sleep(10)
        finally:
            async with bounded(10):
                await asyncio.sleep(0)
            tidied = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert tidied
