"""The engine in a child process: it answers, it dies, it comes back; nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from router.engine.messages import Completion, EngineConfig, GenerateRequest, Message, TextDelta
from router.engine.restarts import Restarts
from router.engine.worker import WorkerEngine
from router.errors import EngineBusy, EngineDown, ModelError, PromptTooLong

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ask(question: str, max_tokens: int = 8, *, stream: bool = False) -> GenerateRequest:
    return GenerateRequest((Message("user", question),), max_tokens=max_tokens, stream=stream)


STORY = ask("Write a long story about a lighthouse.", 400)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(model_path: Path) -> AsyncIterator[WorkerEngine]:
    worker = WorkerEngine(EngineConfig(str(model_path), context=512, slots=2, queue=1))
    await worker.start()
    yield worker
    await worker.close()


async def until_alive(worker: WorkerEngine, alive: bool) -> None:
    for _ in range(300):
        if worker.alive is alive:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"alive is still {worker.alive}")


async def until_active(worker: WorkerEngine, n: int) -> None:
    for _ in range(300):
        stats = await worker.stats()
        if stats.active == n and stats.waiting == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never {n} active: {await worker.stats()}")


async def test_it_answers_as_the_engine_in_this_process(worker: WorkerEngine) -> None:
    done = await worker.generate(ask("Say hello."))
    assert done.trace.text
    events = [event async for event in worker.stream(ask("Say hello.", stream=True))]
    assert isinstance(events[-1], Completion)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == done.trace.text
    assert await worker.count_prompt_tokens((Message("user", "hi"),)) == done.trace.n_prompt - 2


async def test_errors_cross_the_border_with_their_facts(worker: WorkerEngine) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await worker.generate(ask("word " * 600))
    assert caught.value.context == 512
    tasks = [asyncio.create_task(worker.generate(STORY)) for _ in range(4)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [type(task.exception()) for task in done] == [EngineBusy]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_active(worker, 0)


async def test_a_cancelled_request_is_cancelled_in_the_child(worker: WorkerEngine) -> None:
    tasks = [asyncio.create_task(worker.generate(STORY)) for _ in range(2)]
    await until_active(worker, 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_active(worker, 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_crash_costs_what_is_in_flight_and_a_restart(
    worker: WorkerEngine, number: signal.Signals
) -> None:
    before = (await worker.stats()).restarts
    tasks = [asyncio.create_task(worker.generate(STORY)) for _ in range(2)]
    await until_active(worker, 2)
    assert worker.pid is not None
    os.kill(worker.pid, number)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, EngineDown) for result in results)
    await until_alive(worker, False)
    with pytest.raises(EngineDown):
        await worker.generate(ask("Anyone there?"))
    assert (await worker.stats()).active == 0
    await until_alive(worker, True)
    assert (await worker.generate(ask("Say hello."))).trace.text
    assert (await worker.stats()).restarts == before + 1


async def test_after_three_crashes_in_a_minute_it_is_left_alone_for_a_while(
    model_path: Path,
) -> None:
    config = EngineConfig(str(model_path), context=128, slots=1, threads=1)
    worker = WorkerEngine(config, Restarts(rest=1.0))
    await worker.start()
    for crash in range(3):
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await until_alive(worker, False)
        stats = await worker.stats()
        assert stats.extra["breaker_open"] == (crash == 2)
        if crash == 2:
            assert "crashed 3 times within a minute" in worker.trouble
            with pytest.raises(EngineDown, match="crashed 3 times within a minute"):
                await worker.generate(ask("Anyone there?"))
        await until_alive(worker, True)
    assert worker.trouble == ""
    assert (await worker.generate(ask("Say hello."))).trace.text
    await worker.close()


async def test_interrupts_meant_for_the_gateway_do_not_end_the_child(worker: WorkerEngine) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGTERM)
    assert (await worker.generate(ask("Say hello."))).trace.text


async def test_a_model_that_can_not_be_loaded_is_the_callers_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    worker = WorkerEngine(EngineConfig(str(broken)))
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        await worker.start()
    with pytest.raises(EngineDown, match="never started"):
        _ = worker.info
    await worker.close()


async def test_the_child_ends_with_its_gateway(model_path: Path) -> None:
    worker = WorkerEngine(EngineConfig(str(model_path), context=256, slots=1))
    await worker.start()
    pid = worker.pid
    assert pid is not None
    await worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
