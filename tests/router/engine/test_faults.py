"""What goes wrong around the engine: each a clear error, and the engine answers afterwards."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from router.engine.local import LocalEngine
from router.engine.messages import (
    EngineConfig,
    EngineStats,
    GenerateRequest,
    Message,
    Sampler,
    SampleRequest,
    ScoreRequest,
)
from router.engine.worker import WorkerEngine
from router.errors import EngineDown, EngineError, ModelError, PromptTooLong
from uq.trace import Trace

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 384
TIGHT = 96
"""A context that fills quickly."""


def ask(question: str, **options: Any) -> GenerateRequest:
    request = GenerateRequest((Message("user", question),), max_tokens=6)
    return dataclasses.replace(request, **options)


QUESTION = ask("Name three rivers.")
STORY = ask("Write a long story about a lighthouse.", max_tokens=None)
LONG = ask("Repeat this: " + "one two three four five " * 55, max_tokens=4)
"""Several chunks of prompt."""


def config(path: Path, **options: Any) -> EngineConfig:
    small = EngineConfig(
        str(path), context=CONTEXT, slots=2, queue=8, threads=1, prefill_chunk=64, hidden_layers=()
    )
    return dataclasses.replace(small, **options)


def assert_same(a: Trace, b: Trace) -> None:
    """The same answer, to the last bit of its statistics."""
    assert a.text == b.text
    assert a.finish_reason == b.finish_reason
    for name in ("tokens", "logprobs", "entropies", "margins"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(model_path: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(config(model_path))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tight(model_path: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(config(model_path, context=TIGHT))
    await engine.start()
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fresh(model_path: Path) -> dict[str, Trace]:
    """The answers of an engine that was asked nothing else before."""
    requests = {"question": QUESTION, "story": dataclasses.replace(STORY, max_tokens=12)}
    traces = {}
    for name, request in {**requests, "long": LONG}.items():
        engine = LocalEngine(config(model_path, slots=1))
        await engine.start()
        traces[name] = (await engine.generate(request)).trace
        await engine.close()
    return traces


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.001)


async def until_idle(engine: LocalEngine) -> None:
    async def is_idle() -> bool:
        stats = await engine.stats()
        return stats.active == stats.waiting == 0

    await until(is_idle)


async def assert_healthy(engine: LocalEngine, fresh: dict[str, Trace]) -> None:
    """All slots are free, and answers are those of a fresh engine."""
    await until_idle(engine)
    story = dataclasses.replace(STORY, max_tokens=12)
    answers = await asyncio.gather(engine.generate(QUESTION), engine.generate(story))
    assert_same(answers[0].trace, fresh["question"])
    assert_same(answers[1].trace, fresh["story"])


class TestContextFull:
    async def test_a_prompt_that_leaves_no_room_names_both_lengths(
        self, tight: LocalEngine, fresh: dict[str, Trace]
    ) -> None:
        request = await self.filled(tight, TIGHT)
        with pytest.raises(PromptTooLong, match=r"96 tokens .* holds 96; .* raise `context`"):
            await tight.generate(request)
        with pytest.raises(PromptTooLong):
            await tight.sample(SampleRequest(request, 2))
        await assert_healthy(tight, fresh)

    async def test_a_prompt_that_leaves_room_for_one_token_gets_one(
        self, tight: LocalEngine, fresh: dict[str, Trace]
    ) -> None:
        request = await self.filled(tight, TIGHT - 1)
        trace = (await tight.generate(request)).trace
        assert trace.n_prompt == TIGHT - 1
        assert (len(trace), trace.finish_reason) in ((1, "length"), (0, "stop"))
        await assert_healthy(tight, fresh)

    async def test_an_answer_ends_where_the_context_does(
        self, tight: LocalEngine, fresh: dict[str, Trace]
    ) -> None:
        on_and_on = Sampler(logit_bias=((0, -100.0), (1, -100.0), (2, -100.0)))  # no end token
        request = await self.filled(tight, TIGHT - 20, sampler=on_and_on)
        both = await asyncio.gather(tight.generate(request), tight.generate(request))
        for done in both:
            assert done.trace.finish_reason == "length"
            assert done.trace.n_prompt + len(done.trace) == TIGHT
        assert_same(both[0].trace, both[1].trace)
        await assert_healthy(tight, fresh)

    async def filled(self, tight: LocalEngine, n_prompt: int, **options: Any) -> GenerateRequest:
        """A question whose prompt has `n_prompt` tokens."""
        frame = await tight.count_prompt_tokens((Message("user", "word"),))
        request = ask("word" + " word" * (n_prompt - frame), max_tokens=None, **options)
        assert await tight.count_prompt_tokens(request.messages) == n_prompt
        return request


class TestAbort:
    async def test_while_the_prompt_is_read(
        self, engine: LocalEngine, fresh: dict[str, Trace]
    ) -> None:
        for attempt in range(10):  # once in a while the prompt is read before we look
            request = ask(f"{attempt}: {LONG.messages[0].content}")
            before = await engine.stats()
            task = asyncio.create_task(engine.generate(request))

            async def has_begun(before: EngineStats = before) -> bool:
                return (await engine.stats()).prefilled_tokens > before.prefilled_tokens

            await until(has_begun)
            await self.cancel(task)
            await until_idle(engine)
            if (await engine.stats()).decoded_tokens == before.decoded_tokens:
                break
        else:
            pytest.fail("the prompt was always read to its end")
        assert_same((await engine.generate(LONG)).trace, fresh["long"])
        await assert_healthy(engine, fresh)

    async def test_while_it_is_answered(self, engine: LocalEngine, fresh: dict[str, Trace]) -> None:
        other = asyncio.create_task(engine.generate(LONG))
        task = asyncio.create_task(engine.generate(STORY))
        await self.until_decoding(engine, 8)
        await self.cancel(task)
        assert_same((await other).trace, fresh["long"])
        await assert_healthy(engine, fresh)

    async def test_of_a_stream(self, engine: LocalEngine, fresh: dict[str, Trace]) -> None:
        stream = engine.stream(dataclasses.replace(STORY, stream=True))
        for _ in range(3):
            await anext(stream)
        await stream.aclose()
        await assert_healthy(engine, fresh)

    async def test_of_samples(self, engine: LocalEngine, fresh: dict[str, Trace]) -> None:
        warm = dataclasses.replace(STORY, sampler=Sampler(temperature=1.0, seed=1))
        task = asyncio.create_task(engine.sample(SampleRequest(warm, 4)))  # two of them wait
        await self.until_decoding(engine, 8)
        await self.cancel(task)
        await assert_healthy(engine, fresh)

    async def test_of_a_score(self, engine: LocalEngine, fresh: dict[str, Trace]) -> None:
        request = ScoreRequest(LONG.messages, tuple(f"answer {i} of many" for i in range(30)))
        task = asyncio.create_task(engine.score(request))

        async def is_active() -> bool:
            return (await engine.stats()).active > 0 or task.done()

        await until(is_active)
        await self.cancel(task)
        await assert_healthy(engine, fresh)

    async def test_of_one_that_waits(self, engine: LocalEngine, fresh: dict[str, Trace]) -> None:
        tasks = [asyncio.create_task(engine.generate(STORY)) for _ in range(4)]

        async def is_full() -> bool:
            return (await engine.stats()).waiting == 2

        await until(is_full)
        for task in reversed(tasks):
            await self.cancel(task)
        await assert_healthy(engine, fresh)

    async def until_decoding(self, engine: LocalEngine, n: int) -> None:
        """Wait until `n` more tokens have been answered."""
        before = (await engine.stats()).decoded_tokens

        async def is_decoding() -> bool:
            return (await engine.stats()).decoded_tokens >= before + n

        await until(is_decoding)

    async def cancel(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


DAMAGED = {
    "header only": (24, "failed to read key-value pairs"),
    "in the metadata": (1 << 20, "failed to read key-value pairs"),
    "in the tensor infos": (1_780_000, "failed to read tensor info"),
    "where the data begin": (2 << 20, "token_embd.weight.* corrupted or incomplete"),
    "in the data": (49 << 20, "corrupted or incomplete"),
    "the last byte": (-1, "corrupted or incomplete"),
}


class TestModelFile:
    @pytest.mark.parametrize("place", DAMAGED)
    async def test_cut_off(
        self,
        engine: LocalEngine,
        fresh: dict[str, Trace],
        model_path: Path,
        tmp_path: Path,
        place: str,
    ) -> None:
        size, reason = DAMAGED[place]
        broken = tmp_path / "broken.gguf"
        shutil.copyfile(model_path, broken)
        os.truncate(broken, size if size > 0 else model_path.stat().st_size + size)
        other = LocalEngine(config(broken))
        with pytest.raises(ModelError, match=rf"broken\.gguf.*llama\.cpp says.*{reason}"):
            await other.start()
        assert not other.alive
        await assert_healthy(engine, fresh)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "failed to read magic"),
            (b"<html>Please log in</html>", "expected 'GGUF'"),
            (b"GGUF" + bytes(100), "broken.gguf"),
            (b"GGUF\x03\0\0\0" + b"\xff" * 100, "broken.gguf"),
        ],
        ids=["empty", "a page", "zeros", "absurd counts"],
    )
    async def test_no_gguf(
        self,
        engine: LocalEngine,
        fresh: dict[str, Trace],
        tmp_path: Path,
        content: bytes,
        reason: str,
    ) -> None:
        broken = tmp_path / "broken.gguf"
        broken.write_bytes(content)
        with pytest.raises(ModelError, match=rf"broken\.gguf.*{reason}"):
            await LocalEngine(config(broken)).start()
        await assert_healthy(engine, fresh)

    async def test_a_folder_or_nothing(
        self, engine: LocalEngine, fresh: dict[str, Trace], tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match="could not load"):
            await LocalEngine(config(tmp_path)).start()
        with pytest.raises(ModelError, match=r"nothing\.gguf.*No such file"):
            await LocalEngine(config(tmp_path / "nothing.gguf")).start()
        await assert_healthy(engine, fresh)

    async def test_cut_off_while_it_is_served_costs_the_child_alone(
        self, engine: LocalEngine, fresh: dict[str, Trace], model_path: Path, tmp_path: Path
    ) -> None:
        served = tmp_path / "served.gguf"
        shutil.copyfile(model_path, served)
        worker = WorkerEngine(config(served))
        await worker.start()
        try:
            os.truncate(served, 2 << 20)  # reading the mapped weights is now a bus error
            with pytest.raises(EngineDown, match="died while it answered"):
                await worker.generate(QUESTION)
            shutil.copyfile(model_path, served)

            async def is_back() -> bool:
                return worker.alive

            await until(is_back)
            assert_same((await worker.generate(QUESTION)).trace, fresh["question"])
        finally:
            await worker.close()
        await assert_healthy(engine, fresh)


class TestMemory:
    @pytest.mark.parametrize("kind", [LocalEngine, WorkerEngine])
    async def test_too_little_for_the_context_names_what_to_lower(
        self,
        engine: LocalEngine,
        fresh: dict[str, Trace],
        model_path: Path,
        kind: type[LocalEngine | WorkerEngine],
    ) -> None:
        other = kind(config(model_path, context=2**20, slots=8, kv_type_k="f32", kv_type_v="f32"))
        with pytest.raises(EngineError, match=r"1048576 tokens.*lower `context` or `slots`"):
            await other.start()
        assert not other.alive
        await other.close()
        await assert_healthy(engine, fresh)

    @pytest.mark.parametrize(("context", "slots"), [(2**30, 8), (2**32 + 256, 1), (0, 1)])
    async def test_numbers_that_llama_cpp_would_wrap_around_are_refused(
        self, model_path: Path, context: int, slots: int
    ) -> None:
        other = LocalEngine(config(model_path, context=context, slots=slots))
        with pytest.raises(EngineError, match=rf"{context}.*`context`|`context` is {context}"):
            await other.start()
        assert not other.alive
