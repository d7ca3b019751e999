"""What was read once is not read again, by the same tenant, and answers stay the same."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.engine.local import LocalEngine
from router.engine.messages import Completion, EngineConfig, GenerateRequest, Message
from uq.trace import Trace

pytestmark = pytest.mark.model

SYSTEM = "You answer in one short sentence. " + " ".join(
    f"Rule {i}: never mention the number {i * 7}." for i in range(15)
)

READ_ONCE = 150
"""It has a few more tokens than these."""


@contextlib.asynccontextmanager
async def running(model_path: Path, **changes: Any) -> AsyncIterator[LocalEngine]:
    config = EngineConfig(str(model_path), context=1024, slots=4, queue=16, hidden_layers=())
    engine = LocalEngine(dataclasses.replace(config, **changes))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def asked(
    *said: str, system: str = SYSTEM, max_tokens: int = 8, tenant: str = ""
) -> GenerateRequest:
    roles = ("user", "assistant") * len(said)
    turns = tuple(Message(role, text) for role, text in zip(roles, said, strict=False))
    messages = (Message("system", system), *turns)
    return GenerateRequest(messages, max_tokens=max_tokens, tenant=tenant)


async def n_read(engine: LocalEngine) -> int:
    return (await engine.stats()).prefilled_tokens


def assert_same(one: Trace, other: Trace) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.logprobs, other.logprobs)
    np.testing.assert_array_equal(one.entropies, other.entropies)


async def test_a_chat_reads_little_more_than_what_is_new(model_path: Path) -> None:
    async with running(model_path) as engine, running(model_path) as fresh:
        said: list[str] = []
        lengths = [0]
        for turn in range(6):
            said.append(f"Name animal number {turn}.")
            before = await n_read(engine)
            completion = await engine.generate(asked(*said, max_tokens=6))
            read = await n_read(engine) - before
            new = completion.trace.n_prompt - lengths[-1]
            assert completion.n_reused == completion.trace.n_prompt - read
            if turn > 0:
                assert read <= new + 3
            lengths.append(completion.trace.n_prompt)
            if turn == 5:
                alone = await fresh.generate(asked(*said, max_tokens=6))
                assert alone.n_reused == 0
                assert_same(completion.trace, alone.trace)
            said.append(completion.trace.text)


async def test_another_tenant_reads_everything_itself(model_path: Path) -> None:
    async with running(model_path) as engine:
        mine = await engine.generate(asked("Hello?", tenant="mine"))
        theirs = await engine.generate(asked("Hello?", tenant="theirs"))
        again = await engine.generate(asked("Hello!", tenant="mine"))
        assert (mine.n_reused, theirs.n_reused) == (0, 0)
        assert again.n_reused > READ_ONCE
        assert_same(mine.trace, theirs.trace)


async def test_equal_prompts_at_once_are_read_once(model_path: Path) -> None:
    async with running(model_path) as engine:
        together = await asyncio.gather(*(engine.generate(asked("Hello?")) for _ in range(6)))
        length = together[0].trace.n_prompt
        assert await n_read(engine) <= length + 5 * 2
        assert sum(c.n_reused for c in together) >= 5 * (length - 2)
        for completion in together:
            assert_same(completion.trace, together[0].trace)


async def test_a_shared_system_prompt_is_read_once(model_path: Path) -> None:
    questions = ["What is red?", "Where is Rome?", "Who was Newton?", "Why is the sky blue?"]
    async with running(model_path) as engine, running(model_path, slots=1) as one:
        together = await asyncio.gather(*(engine.generate(asked(q)) for q in questions))
        own = [c.trace.n_prompt - READ_ONCE for c in together]
        assert await n_read(engine) <= READ_ONCE + sum(own)
        for question, completion in zip(questions, together, strict=True):
            assert_same(completion.trace, (await one.generate(asked(question))).trace)


@pytest.mark.parametrize("when", [0.0, 0.2])
async def test_a_leader_that_goes_away_is_not_missed(model_path: Path, when: float) -> None:
    async with running(model_path, prefill_chunk=64) as engine:
        leader = asyncio.create_task(engine.generate(asked("What is red?")))
        await asyncio.sleep(0.05)
        followers = [asyncio.create_task(engine.generate(asked("What is blue?"))) for _ in range(2)]
        await asyncio.sleep(when)
        leader.cancel()
        first, second = await asyncio.gather(*followers)
        with contextlib.suppress(asyncio.CancelledError):
            await leader
        assert_same(first.trace, second.trace)
        assert_same(first.trace, (await engine.generate(asked("What is blue?"))).trace)


async def test_a_system_prompt_on_disk_outlives_the_engine(
    model_path: Path, tmp_path: Path
) -> None:
    folder = str(tmp_path / "prefixes")
    answers: list[Completion] = []
    for question in ("What is red?", "Where is Rome?"):
        async with running(model_path, prefix_folder=folder) as engine:
            answers.append(await engine.generate(asked(question, tenant="mine")))
    async with running(model_path, prefix_folder=folder) as engine:
        theirs = await engine.generate(asked("Where is Rome?", tenant="theirs"))
    first, second = answers
    assert (first.n_reused, theirs.n_reused) == (0, 0)
    assert second.n_reused > READ_ONCE
    assert_same(second.trace, theirs.trace)
