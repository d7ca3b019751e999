"""Guessing tokens changes how long an answer takes, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from router.engine import answer_writer, local
from router.engine.context import BatchEntry, Context
from router.engine.draft import StepCost
from router.engine.local import LocalEngine
from router.engine.messages import (
    GREEDY,
    Completion,
    EngineConfig,
    GenerateRequest,
    Message,
    Sampler,
    TextDelta,
)
from router.errors import EngineError, ModelError

pytestmark = pytest.mark.model
in_module = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 256

COPY = (
    "Repeat this list exactly, and then once more: apple, pear, plum, apple, pear, plum, apple, "
    "pear, plum, apple, pear, plum."
)
QUESTIONS = (COPY, "Why is the sky blue?", "Count from one to twenty.", "Write hello ten times.")


@contextlib.asynccontextmanager
async def running(path: Path, speculative: str, draft: Path | None) -> AsyncIterator[LocalEngine]:
    config = EngineConfig(str(path), context=CONTEXT, slots=4, speculative=speculative)
    engine = LocalEngine(dataclasses.replace(config, draft_model_path=str(draft or "")))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


class AlwaysPays(StepCost):
    """Steps that take the same whatever they hold: how busy this machine is must not matter."""

    def seconds(self, rows: int) -> float:
        self.per_guess = 0.0
        return 1.0 + rows * 1e-6


class Plain:
    """An engine that guesses nothing; what several tests compare with is answered once."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._answers: dict[str, Completion] = {}

    async def generate(self, request: GenerateRequest) -> Completion:
        key = repr(request)
        if key not in self._answers:
            self._answers[key] = await self._engine.generate(request)
        return self._answers[key]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(model_path: Path) -> AsyncIterator[Plain]:
    async with running(model_path, "off", None) as engine:
        yield Plain(engine)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["lookup", "draft"])
async def guessing(
    model_path: Path, draft_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[LocalEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_writer, "StepCost", AlwaysPays)
        async with running(model_path, request.param, draft_path) as engine:
            yield engine


def asked(question: str, sampler: Sampler = GREEDY, **fields: Any) -> GenerateRequest:
    request = GenerateRequest((Message("user", question),), sampler, max_tokens=32, hidden=True)
    return dataclasses.replace(request, **({"top_logprobs": 3} | fields))


def assert_same(one: Completion, other: Completion) -> None:
    ours, theirs = one.trace, other.trace
    assert ours.text == theirs.text
    assert ours.finish_reason == theirs.finish_reason
    for name in ("tokens", "offsets", "logprobs", "entropies", "margins", "top_logprobs"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    np.testing.assert_array_equal(ours.end_logprob, theirs.end_logprob)
    assert ours.hidden is not None
    assert theirs.hidden is not None
    for place in ("prompt_end", "answer_last", "answer_mean"):
        np.testing.assert_array_equal(getattr(ours.hidden, place), getattr(theirs.hidden, place))


@in_module
@pytest.mark.parametrize("question", QUESTIONS)
async def test_greedy_answers_and_all_that_is_observed_of_them(
    plain: Plain, guessing: LocalEngine, question: str
) -> None:
    request = asked(question)
    assert_same(await guessing.generate(request), await plain.generate(request))


@in_module
async def test_several_at_once(plain: Plain, guessing: LocalEngine) -> None:
    alone = [await plain.generate(asked(question)) for question in QUESTIONS]
    together = await asyncio.gather(*(guessing.generate(asked(q)) for q in QUESTIONS))
    for ours, theirs in zip(together, alone, strict=True):
        assert_same(ours, theirs)


@in_module
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(temperature=0.8, seed=3),
        Sampler(temperature=1.0, top_p=0.9, top_k=40, seed=4),
        Sampler(repetition_penalty=1.1, frequency_penalty=0.3),
    ],
)
async def test_drawn_answers_are_the_same_ones(
    plain: Plain, guessing: LocalEngine, sampler: Sampler
) -> None:
    request = asked(COPY, sampler)
    assert_same(await guessing.generate(request), await plain.generate(request))


@in_module
async def test_log_probabilities_are_the_models_own(guessing: LocalEngine) -> None:
    completion = await guessing.generate(asked(COPY))
    assert completion.n_accepted > 0, "nothing was guessed right: this test would show nothing"
    assert (completion.trace.logprobs < 0.0).all()
    assert len(set(completion.trace.logprobs)) == len(completion.trace.logprobs)


@in_module
async def test_the_share_of_right_guesses_is_told(guessing: LocalEngine) -> None:
    before = (await guessing.stats()).extra
    completion = await guessing.generate(asked(COPY))
    after = (await guessing.stats()).extra
    assert 0 < completion.n_accepted <= completion.n_guessed
    assert after["guessed"] - before["guessed"] == completion.n_guessed
    assert after["accepted"] - before["accepted"] == completion.n_accepted


@in_module
async def test_ends_where_it_should(plain: Plain, guessing: LocalEngine) -> None:
    for limit in (1, 2, 3, 17):
        request = asked(COPY, max_tokens=limit, top_logprobs=0)
        completion = await guessing.generate(request)
        assert_same(completion, await plain.generate(request))
    stopped = asked(COPY, stop=("plum",))
    assert_same(await guessing.generate(stopped), await plain.generate(stopped))


@in_module
async def test_an_answer_to_the_end_of_the_context(plain: Plain, guessing: LocalEngine) -> None:
    long = "Repeat for ever: one two three. " * 25
    request = asked(long, max_tokens=None)
    ours, theirs = await guessing.generate(request), await plain.generate(request)
    assert_same(ours, theirs)
    assert ours.trace.n_prompt + len(ours.trace) >= CONTEXT


@in_module
async def test_a_stream_is_whole(guessing: LocalEngine) -> None:
    text = ""
    async for event in guessing.stream(asked(COPY, stream=True)):
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, Completion):
            assert event.trace.text == text


async def test_a_draft_model_that_is_missing(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.gguf"):
        async with running(model_path, "draft", tmp_path / "no.gguf"):
            pass


async def test_a_draft_model_for_which_there_is_no_memory(
    model_path: Path, draft_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is told before it is taken."""
    cache = 4 * CONTEXT * 30 * 192 * (34 / 32 + 2)
    free = int(1.5 * cache)
    monkeypatch.setattr(local, "available_memory", lambda: free)
    async with running(model_path, "off", None):
        pass
    with pytest.raises(EngineError, match=r"0\.1 GiB for the draft model's weights and .*smaller"):
        async with running(model_path, "draft", draft_path):
            pass
    free = int(2.1 * cache) + draft_path.stat().st_size
    async with running(model_path, "draft", draft_path):
        pass


def test_rows_come_in_the_order_told() -> None:
    """Hidden states are copied while a batch is computed: rows must be told apart by order."""
    order = Context.computed_order
    entries = [
        BatchEntry(seq, [0] * n, 0, want_logits=True)
        for seq, n in ((0, 1), (1, 3), (2, 2), (5, 2), (6, 1))
    ]
    assert order(entries) == [
        *((0, 0), (1, 0), (2, 0)),
        *((1, 1), (2, 1)),
        (1, 2),
        *((3, 0), (4, 0)),
        (3, 1),
    ]
