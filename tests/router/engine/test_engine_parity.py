"""Greedy answers and log-probabilities equal `llama_cpp.Llama`'s, alone and eight at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import pytest_asyncio

from calibration.datasets import builtin
from router.engine.local import LocalEngine
from router.engine.messages import Completion, GenerateRequest, Message
from router.engine.scheduler import PREFILL_CHUNK

N_TOKENS = 16
QUESTIONS = [item.prompt() for item in builtin.generate(seed=0)[::40]][:50]


def request(question: str) -> GenerateRequest:
    return GenerateRequest((Message("user", question),), max_tokens=N_TOKENS)


@pytest.fixture(scope="module")
def theirs(model_path: Path) -> list[tuple[str, list[float]]]:
    """Answer text and log-probabilities by the high-level class."""
    llama = llama_cpp.Llama(
        str(model_path),
        n_ctx=512,
        n_batch=PREFILL_CHUNK,
        logits_all=True,
        flash_attn=True,
        type_k=llama_cpp.GGML_TYPE_Q8_0,
        verbose=False,
    )
    answers: list[tuple[str, list[float]]] = []
    for question in QUESTIONS:
        reply: Any = llama.create_chat_completion(
            [{"role": "user", "content": question}],
            temperature=0.0,
            max_tokens=N_TOKENS,
            logprobs=True,
            top_logprobs=1,
        )
        choice = reply["choices"][0]
        steps = choice["logprobs"]["content"] if choice["logprobs"] else []
        answers.append((choice["message"]["content"], [step["logprob"] for step in steps]))
    llama.close()
    return answers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone(engine: LocalEngine) -> list[Completion]:
    return [await engine.generate(request(question)) for question in QUESTIONS]


@pytest.mark.asyncio(loop_scope="session")
async def test_alone(alone: list[Completion], theirs: list[tuple[str, list[float]]]) -> None:
    assert len(alone) == 50
    for ours, (text, logprobs) in zip(alone, theirs, strict=True):
        assert ours.trace.text == text
        n = min(len(logprobs), len(ours.trace))
        assert n > 0
        assert np.allclose(ours.trace.logprobs[:n], logprobs[:n], atol=2e-4)


@pytest.mark.asyncio(loop_scope="session")
async def test_eight_at_a_time_to_the_last_bit(
    engine: LocalEngine, alone: list[Completion]
) -> None:
    running = asyncio.Semaphore(8)

    async def one(question: str) -> Completion:
        async with running:
            return await engine.generate(request(question))

    together = await asyncio.gather(*map(one, QUESTIONS))
    for ours, single in zip(together, alone, strict=True):
        assert np.array_equal(ours.trace.tokens, single.trace.tokens)
        assert np.array_equal(ours.trace.logprobs, single.trace.logprobs)
        assert np.array_equal(ours.trace.entropies, single.trace.entropies)
