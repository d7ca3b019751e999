"""The engine on the real model: what it answers, what it observes, how it shares its slots."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.engine.local import LocalEngine, usable_cores
from router.engine.messages import (
    TOOLS,
    Completion,
    EngineConfig,
    GenerateRequest,
    Message,
    Sampler,
    TextDelta,
)
from router.errors import EngineBusy, EngineDown, ModelError, PromptTooLong
from tests import tool_template

pytestmark = pytest.mark.asyncio(loop_scope="session")


def ask(question: str, **options: Any) -> GenerateRequest:
    request = GenerateRequest((Message("user", question),), max_tokens=16)
    return dataclasses.replace(request, **options)


STORY = "Write a long story about a lighthouse."


async def until_idle(engine: LocalEngine) -> None:
    for _ in range(200):
        stats = await engine.stats()
        if stats.active == stats.waiting == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"slots leaked: {await engine.stats()}")


async def test_what_is_loaded(engine: LocalEngine, model_path: Path) -> None:
    info = engine.info
    assert info.model_path == str(model_path)
    assert (info.architecture, info.quantisation, info.n_vocab) == ("llama", "Q4_1", 49152)
    assert info.n_threads == usable_cores()
    assert "llama.cpp" in info.build
    assert engine.alive


async def test_the_trace_agrees_with_itself(engine: LocalEngine) -> None:
    done = await engine.generate(ask("Name a colour.", top_logprobs=5))
    trace = done.trace
    assert len(trace) == 16 or trace.finish_reason == "stop"
    assert trace.top_ids.shape == (len(trace), 5)
    assert np.array_equal(trace.tokens, trace.top_ids[:, 0])  # greedy
    assert np.allclose(trace.logprobs, trace.top_logprobs[:, 0])
    p = np.exp(trace.top_logprobs)
    assert np.allclose(trace.margins, p[:, 0] - p[:, 1], atol=1e-6)
    assert np.all(trace.logprobs < 0)
    assert np.all(trace.entropies > 0)
    assert b"".join(done.pieces).decode() == trace.text
    for offset, piece in zip(trace.offsets, done.pieces, strict=True):
        assert trace.text[offset:].startswith(piece.decode())
    assert done.timings.prefill > 0


async def test_an_end_token_ends_the_answer_and_is_kept_apart(engine: LocalEngine) -> None:
    done = await engine.generate(ask("Say only the word yes.", max_tokens=200))
    assert done.trace.finish_reason == "stop"
    assert done.trace.end_logprob < 0
    cut = await engine.generate(ask(STORY, max_tokens=3))
    assert cut.trace.finish_reason == "length"
    assert np.isnan(cut.trace.end_logprob)
    assert len(cut.trace) == 3


async def test_a_stop_string_across_tokens_leaves_no_trace(engine: LocalEngine) -> None:
    whole = (await engine.generate(ask("Count from one to ten in words.", max_tokens=40))).trace
    stop = whole.text[9:14]
    done = await engine.generate(
        ask("Count from one to ten in words.", max_tokens=40, stop=(stop,), stream=True)
    )
    assert done.trace.text == whole.text[: whole.text.index(stop)]
    assert done.trace.finish_reason == "stop"
    assert np.all(done.trace.offsets < len(done.trace.text))


async def test_a_stream_delivers_the_text_and_then_the_completion(engine: LocalEngine) -> None:
    events = [event async for event in engine.stream(ask("Say hello.", stream=True))]
    *pieces, last = events
    assert isinstance(last, Completion)
    assert all(isinstance(piece, TextDelta) for piece in pieces)
    assert "".join(p.text for p in pieces if isinstance(p, TextDelta)) == last.trace.text


async def test_the_seed_fixes_a_sampled_answer_whoever_else_is_served(engine: LocalEngine) -> None:
    request = ask(STORY, sampler=Sampler(temperature=1.0, seed=11))
    alone = await engine.generate(request)
    others = [engine.generate(ask(f"Tell me about the number {i}.")) for i in range(7)]
    together, *_ = await asyncio.gather(engine.generate(request), *others)
    assert together.trace.text == alone.trace.text
    other = await engine.generate(ask(STORY, sampler=Sampler(temperature=1.0, seed=12)))
    assert other.trace.text != alone.trace.text


async def test_what_a_slot_held_before_leaves_no_bit_in_the_answer(engine: LocalEngine) -> None:
    first = await engine.generate(ask("Name three rivers in Europe and say where they end."))
    before = (await engine.stats()).prefilled_tokens
    again = await engine.generate(ask("Name three rivers in Europe and say where they end."))
    read = (await engine.stats()).prefilled_tokens - before
    assert read < first.trace.n_prompt  # the beginning was still in a slot
    assert np.array_equal(again.trace.tokens, first.trace.tokens)
    assert np.array_equal(again.trace.logprobs, first.trace.logprobs)


@pytest.mark.parametrize("n_words", [225, 226, 227, 228, 229, 230])
async def test_a_prompt_around_the_length_of_a_chunk(engine: LocalEngine, n_words: int) -> None:
    once = await engine.generate(ask("word " * n_words, max_tokens=2))
    await engine.generate(ask("word " * (n_words - 1) + "end", max_tokens=2))
    again = await engine.generate(ask("word " * n_words, max_tokens=2))
    assert np.array_equal(again.trace.logprobs, once.trace.logprobs)


async def test_a_biased_token_is_reported_under_the_models_own_distribution(
    engine: LocalEngine,
) -> None:
    plain = await engine.generate(ask("Name a colour.", max_tokens=1, top_logprobs=2))
    first, second = (int(t) for t in plain.trace.top_ids[0])
    sampler = Sampler(logit_bias=((first, -100.0),))
    biased = await engine.generate(ask("Name a colour.", max_tokens=1, sampler=sampler))
    assert biased.trace.tokens.tolist() == [second]
    assert biased.trace.logprobs[0] == pytest.approx(plain.trace.top_logprobs[0, 1])


async def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths(
    engine: LocalEngine,
) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await engine.generate(ask("word " * 600))
    assert caught.value.context == 512
    assert caught.value.n_prompt > 600


async def test_a_prompt_that_fills_the_context_gets_what_room_is_left(engine: LocalEngine) -> None:
    n_frame = await engine.count_prompt_tokens((Message("user", ""),))
    request = ask("word" + " word" * (510 - n_frame - 1), max_tokens=None)
    done = await engine.generate(request)
    assert done.trace.n_prompt + len(done.trace) <= 512
    assert done.trace.finish_reason in ("length", "stop")


async def test_a_cancelled_request_frees_its_slot(engine: LocalEngine) -> None:
    tasks = [asyncio.create_task(engine.generate(ask(STORY, max_tokens=400))) for _ in range(8)]
    async with asyncio.timeout(60):
        while (await engine.stats()).active < 8:
            await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_idle(engine)
    assert (await engine.generate(ask("Say hello."))).trace.text


async def test_a_prompt_that_is_given_up_is_not_read_on_and_leaves_no_bit_behind(
    engine: LocalEngine,
) -> None:
    request = ask("The tide came in and the keeper counted the ships. " * 40, tenant="given up")
    undisturbed = await engine.generate(dataclasses.replace(request, tenant="undisturbed"))
    before = await engine.stats()
    task = asyncio.create_task(engine.generate(request))
    while (await engine.stats()).active < 1:
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_idle(engine)
    read = (await engine.stats()).prefilled_tokens - before.prefilled_tokens
    assert read < undisturbed.trace.n_prompt
    again = await engine.generate(request)
    assert again.trace.text == undisturbed.trace.text
    assert np.array_equal(again.trace.logprobs, undisturbed.trace.logprobs)


async def test_leaving_a_stream_early_frees_its_slot(engine: LocalEngine) -> None:
    stream = engine.stream(ask(STORY, max_tokens=400, stream=True))
    await anext(stream)
    await stream.aclose()
    await until_idle(engine)


async def test_more_than_slots_and_queue_hold_is_busy_at_once(engine: LocalEngine) -> None:
    tasks = [asyncio.create_task(engine.generate(ask(STORY, max_tokens=8))) for _ in range(13)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    busy = [r for r in results if isinstance(r, EngineBusy)]
    assert len(busy) == 1  # 8 slots and a queue of 4
    assert busy[0].retry_after >= 1
    assert sum(isinstance(r, Completion) for r in results) == 12
    await until_idle(engine)


async def test_who_would_wait_too_long_is_told_at_once_and_counted(
    engine_config: EngineConfig,
) -> None:
    strict = dataclasses.replace(engine_config, slots=1, queue=99, queue_seconds=0.001)
    engine = LocalEngine(strict)
    await engine.start()
    try:
        await engine.generate(ask("Say hello.", max_tokens=2))  # now it knows how long one takes
        long = asyncio.create_task(engine.generate(ask(STORY, max_tokens=200)))
        async with asyncio.timeout(60):
            while (await engine.stats()).active == 0:
                await asyncio.sleep(0.001)
        for _ in range(2):
            with pytest.raises(EngineBusy):
                await engine.generate(ask("Say hello."))
        await long
        extra = (await engine.stats()).extra
    finally:
        await engine.close()
    assert (extra["refused_slow"], extra["refused_full"], extra["wait_seconds"]) == (2, 0, 0)


async def test_a_long_prompt_does_not_stall_those_who_are_answering(engine: LocalEngine) -> None:
    stream = engine.stream(ask(STORY, max_tokens=100, stream=True))
    await anext(stream)
    long_prompt = asyncio.create_task(engine.generate(ask("word " * 450, max_tokens=1)))
    seen = 0
    async for _ in stream:
        seen += 1
        if long_prompt.done():
            break
    assert seen > 0
    await stream.aclose()
    await long_prompt


async def test_an_engine_that_is_not_running_says_so(engine_config: EngineConfig) -> None:
    closed = LocalEngine(engine_config)
    assert not closed.alive
    with pytest.raises(EngineDown):
        await closed.generate(ask("Hello?"))
    await closed.close()


async def test_closing_ends_what_is_in_flight(engine_config: EngineConfig) -> None:
    engine = LocalEngine(dataclasses.replace(engine_config, slots=1, queue=8))
    await engine.start()
    tasks = [asyncio.create_task(engine.generate(ask(STORY, max_tokens=400))) for _ in range(3)]
    await asyncio.sleep(0.1)
    await engine.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, EngineDown) for r in results)


async def test_a_file_that_is_no_model_is_named(tmp_path: Path, model_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    with model_path.open("rb") as source:
        broken.write_bytes(source.read(1 << 20))
    with pytest.raises(ModelError, match=r"broken\.gguf.*llama\.cpp says"):
        await LocalEngine(EngineConfig(str(broken))).start()


async def test_a_template_that_leaves_tools_out_is_refused_where_they_are_wanted(
    model_path: Path,
) -> None:
    config = EngineConfig(str(model_path), context=64, slots=1, tools=True)
    with pytest.raises(ModelError, match=r"(?i)smollm2.*local_tools.*chat_template"):
        await LocalEngine(config).start()


async def test_a_template_of_ones_own_is_what_the_prompt_is_made_by(
    model_path: Path, engine: LocalEngine
) -> None:
    config = EngineConfig(
        str(model_path), context=64, slots=1, tools=True, chat_template=tool_template.SOURCE
    )
    own = LocalEngine(config)
    await own.start()
    try:
        assert own.info.template_sha256 != engine.info.template_sha256
        hello = [Message("user", "hello")]
        alone = await own.count_prompt_tokens(hello)
        assert await own.count_prompt_tokens([Message(TOOLS, '[{"a": 1}]'), *hello]) > alone
    finally:
        await own.close()
