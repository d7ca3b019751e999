"""Many small requests of all kinds: nothing of them stays, and every slot is usable after."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak import (
    KINDS,
    Census,
    Reading,
    carry_out_all,
    leftovers,
    plans,
    resident_bytes,
    summary,
)
from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig, GenerateRequest, Message


def config(model_path: Path, **options: Any) -> EngineConfig:
    small = EngineConfig(str(model_path), context=96, slots=3, queue=16, threads=1)
    return dataclasses.replace(small, **options)


@pytest.mark.parametrize(("speculative", "n"), [("off", 32), ("lookup", 16)])
async def test_nothing_is_kept(model_path: Path, speculative: str, n: int) -> None:
    engine = LocalEngine(config(model_path, speculative=speculative))
    await engine.start()
    before = Census.take()
    try:
        todo = plans(n, most_words=15, most_tokens=4)
        assert await carry_out_all(engine, todo, clients=5) == []
        assert await leftovers(engine, before) == []
    finally:
        await engine.close()
    after = Census.take()
    assert after.objects == before.objects == Counter()
    assert after.threads < before.threads  # the engine's own


async def test_what_is_kept_is_told(model_path: Path) -> None:
    engine = LocalEngine(config(model_path))
    await engine.start()
    before = Census.take()
    stream = engine.stream(GenerateRequest((Message("user", "Hi."),), max_tokens=1, stream=True))
    await anext(stream)
    found = await leftovers(engine, before)
    assert "1 objects Job of ended requests are kept" in found
    await stream.aclose()
    assert await leftovers(engine, before) == []
    await engine.close()


def test_plans_are_the_same_every_time_and_of_all_kinds_and_lengths() -> None:
    todo = plans(400)
    assert todo == plans(400)
    assert {plan.kind for plan in todo} == set(KINDS)
    assert min(plan.n_words for plan in todo) < 8
    assert max(plan.n_words for plan in todo) > 500
    assert {plan.max_tokens for plan in todo} >= {1, 2, 3, 4, 60}
    text = todo[7].request().messages[0].content
    assert len(text.split()) == todo[7].n_words
    assert todo[7].request() == plans(400)[7].request()


def test_the_summary_by_hand() -> None:
    mib = 2**20
    flat = [Reading(200, 100 * mib), Reading(250, 101 * mib), Reading(300, 99 * mib)]
    line, reached = summary(flat)
    assert reached
    assert line.startswith("resident MiB: first 100.0, last 99.0 (-1.00%), largest 101.0 (+1.00%)")
    line, reached = summary([*flat, Reading(350, 103 * mib), Reading(400, 100 * mib)])
    assert not reached
    assert line.endswith("goal within 2%: missed")
    assert resident_bytes() > mib
