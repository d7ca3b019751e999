"""Identical work at the same time is done once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from service.errors import ApiError
from service.single_flight import SingleFlight


class Work:
    """Yields 1, and 2 and 3 when `gate` opens; counts how often it ran and was stopped."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.runs = 0
        self.stopped = 0
        self.gate = asyncio.Event()
        self._failure = failure

    async def __call__(self) -> AsyncGenerator[int, None]:
        self.runs += 1
        try:
            yield 1
            await self.gate.wait()
            yield 2
            if self._failure is not None:
                raise self._failure
            yield 3
        except asyncio.CancelledError:
            self.stopped += 1
            raise


async def collect(flights: SingleFlight[int], key: str | None, work: Work) -> list[int]:
    async with flights.join(key, work) as (events, _):
        return [event async for event in events]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_64_who_ask_the_same_share_one_run_and_see_all_of_it() -> None:
    flights, work = SingleFlight[int](), Work()
    tasks = [asyncio.create_task(collect(flights, "k", work)) for _ in range(64)]
    await settle()
    work.gate.set()
    assert await asyncio.gather(*tasks) == [[1, 2, 3]] * 64
    assert work.runs == 1
    assert len(flights) == 0


async def test_one_who_comes_late_sees_it_from_the_start() -> None:
    flights, work = SingleFlight[int](), Work()
    async with flights.join("k", work) as first:
        assert first.leads
        assert await anext(first.events) == 1
        async with flights.join("k", work) as second:
            assert not second.leads
            assert await anext(second.events) == 1
            work.gate.set()
            assert [event async for event in second.events] == [2, 3]
    assert work.runs == 1


async def test_another_key_and_no_key_run_by_themselves() -> None:
    flights, work = SingleFlight[int](), Work()
    work.gate.set()
    await asyncio.gather(*(collect(flights, key, work) for key in ("a", "b", None, None)))
    assert work.runs == 4


async def test_when_it_is_over_the_next_starts_anew() -> None:
    flights, work = SingleFlight[int](), Work()
    work.gate.set()
    await collect(flights, "k", work)
    await collect(flights, "k", work)
    assert work.runs == 2


async def test_one_who_leaves_does_not_stop_the_others() -> None:
    flights, work = SingleFlight[int](), Work()
    staying = asyncio.create_task(collect(flights, "k", work))
    leaving = asyncio.create_task(collect(flights, "k", work))
    await settle()
    leaving.cancel()
    await settle()
    work.gate.set()
    assert await staying == [1, 2, 3]
    assert leaving.cancelled()
    assert work.stopped == 0


@pytest.mark.parametrize("key", ["k", None])
async def test_the_last_to_leave_stops_the_run(key: str | None) -> None:
    flights, work = SingleFlight[int](), Work()
    tasks = [asyncio.create_task(collect(flights, key, work)) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await settle()
    assert work.stopped == work.runs == (3 if key is None else 1)
    assert len(flights) == 0


async def test_nobody_joins_a_run_that_is_being_stopped() -> None:
    flights, work = SingleFlight[int](), Work()
    async with flights.join("k", work) as first:
        assert await anext(first.events) == 1
    work.gate.set()
    assert await collect(flights, "k", work) == [1, 2, 3]
    assert work.runs == 2


async def test_a_failure_reaches_all_who_wait_and_nobody_after() -> None:
    flights, failing = SingleFlight[int](), Work(ValueError("broken"))
    tasks = [asyncio.create_task(collect(flights, "k", failing)) for _ in range(3)]
    await settle()
    failing.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["broken"] * 3
    working = Work()
    working.gate.set()
    assert await collect(flights, "k", working) == [1, 2, 3]


async def test_a_failure_tells_where_it_came_from_to_each() -> None:
    flights, failing = SingleFlight[int](), Work(ValueError("broken"))
    failing.gate.set()
    lengths = []

    async def watch() -> None:
        try:
            await collect(flights, "k", failing)
        except ValueError as error:
            frames, tb = 0, error.__traceback__
            while tb is not None:
                frames, tb = frames + 1, tb.tb_next
            lengths.append(frames)

    await asyncio.gather(*(watch() for _ in range(5)))
    assert len(lengths) == 5
    assert len(set(lengths)) == 1
    assert lengths[0] > 2


async def test_a_failure_nobody_waits_for_is_not_reported_as_forgotten() -> None:
    flights, failing = SingleFlight[int](), Work(ValueError("broken"))
    async with flights.join("k", failing) as joined:
        failing.gate.set()
        await settle()
        assert len(flights) == 0
        assert await anext(joined.events) == 1


async def test_close_stops_everything_and_says_so() -> None:
    flights, work = SingleFlight[int](), Work()
    task = asyncio.create_task(collect(flights, "k", work))
    await settle()
    await flights.close()
    with pytest.raises(ApiError) as caught:
        await task
    assert caught.value.status == 503
    assert work.stopped == 1


async def test_leaving_twice_the_same_moment_is_safe() -> None:
    flights, work = SingleFlight[int](), Work()
    work.gate.set()
    async with flights.join("k", work) as joined:
        assert [event async for event in joined.events] == [1, 2, 3]
        with contextlib.suppress(StopAsyncIteration):
            await anext(joined.events)
    assert len(flights) == 0
