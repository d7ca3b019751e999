"""A look at an answer that is being made: when it comes, and that it changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from router.engine.local import LocalEngine
from router.engine.messages import (
    Completion,
    GenerateRequest,
    Look,
    Message,
    Partial,
    StreamPart,
    TextDelta,
)

REQUEST = GenerateRequest(
    (Message("user", "Name three colours and say why you like them."),), max_tokens=24, hidden=True
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def parts_of(engine: LocalEngine, look: Look | None) -> list[StreamPart]:
    request = dataclasses.replace(REQUEST, stream=True, look=look)
    return [part async for part in engine.stream(request)]


async def test_it_comes_once_after_so_many_tokens(engine: LocalEngine) -> None:
    parts = await parts_of(engine, Look(tokens=8, seconds=1e9))
    (looked,) = [part for part in parts if isinstance(part, Partial)]
    whole = parts[-1]
    assert isinstance(whole, Completion)
    seen = looked.completion.trace
    assert len(seen) == 8
    assert seen.finish_reason == "stopped"
    assert whole.trace.text.startswith(seen.text)
    assert np.array_equal(seen.logprobs, whole.trace.logprobs[:8])
    assert np.array_equal(seen.entropies, whole.trace.entropies[:8])
    assert seen.hidden is not None
    assert whole.trace.hidden is not None
    assert np.array_equal(seen.hidden.prompt_end, whole.trace.hidden.prompt_end)


async def test_it_changes_nothing(engine: LocalEngine) -> None:
    looked, plain = await parts_of(engine, Look(4, 1e9)), await parts_of(engine, None)
    ours, theirs = looked[-1], plain[-1]
    assert isinstance(ours, Completion)
    assert isinstance(theirs, Completion)
    assert np.array_equal(ours.trace.logprobs, theirs.trace.logprobs)
    assert ours.trace.text == theirs.trace.text
    texts = ["".join(p.text for p in all if isinstance(p, TextDelta)) for all in (looked, plain)]
    assert texts[0] == texts[1] == ours.trace.text


async def test_when_time_is_up_it_comes_with_the_first_token(engine: LocalEngine) -> None:
    parts = await parts_of(engine, Look(tokens=1000, seconds=0.0))
    (looked,) = [part for part in parts if isinstance(part, Partial)]
    assert len(looked.completion.trace) == 1


async def test_an_answer_that_ends_before_is_not_looked_at(engine: LocalEngine) -> None:
    parts = await parts_of(engine, Look(tokens=1000, seconds=1e9))
    assert not any(isinstance(part, Partial) for part in parts)
