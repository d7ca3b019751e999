"""A pause lets work gather, unless somebody waits for it."""

from __future__ import annotations

import asyncio

from router.pause import Pause


async def test_nobody_in_a_hurry_waits_it_out() -> None:
    await Pause(0.0).wait()


async def test_a_pause_under_way_is_cut_short() -> None:
    pause = Pause(3600.0)
    waiting = asyncio.create_task(pause.wait())
    await asyncio.sleep(0)
    with pause.hurry():
        await waiting


async def test_none_begins_while_somebody_waits() -> None:
    pause = Pause(3600.0)
    with pause.hurry():
        await pause.wait()


async def test_afterwards_it_pauses_again() -> None:
    pause = Pause(3600.0)
    with pause.hurry():
        await pause.wait()
    waiting = asyncio.create_task(pause.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
