"""Greedy answers and log-probabilities equal `llama_cpp.Llama`'s, alone and eight at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from calibration.datasets import builtin
from router.engine.local import LocalEngine
from router.engine.messages import Completion, GenerateRequest, Message
from router.engine.scheduler import PREFILL_CHUNK

N_TOKENS = 16
QUESTIONS = [item.prompt() for item in builtin.generate(seed=0)[::80]][:24]


class Theirs(NamedTuple):
    """An answer: its text, and the likeliest token at each step with its log-probability."""

    text: str
    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]


def request(question: str) -> GenerateRequest:
    return GenerateRequest((Message("user", question),), max_tokens=N_TOKENS)


@pytest.fixture(scope="module")
def theirs(model_path: Path) -> list[Theirs]:
    """Answers by the high-level class.

    Log-probabilities are taken from the logits it keeps: asked for them in the reply, it sorts the
    whole vocabulary in Python for each token, which takes longer than all else here.
    """
    llama = llama_cpp.Llama(
        str(model_path),
        n_ctx=512,
        n_batch=PREFILL_CHUNK,
        logits_all=True,
        flash_attn=True,
        type_k=llama_cpp.GGML_TYPE_Q8_0,
        verbose=False,
    )
    answers = []
    for question in QUESTIONS:
        reply: Any = llama.create_chat_completion(
            [{"role": "user", "content": question}], temperature=0.0, max_tokens=N_TOKENS
        )
        logits = llama.scores[reply["usage"]["prompt_tokens"] - 1 : llama.n_tokens]
        logprobs = llama_cpp.Llama.logits_to_logprobs(logits)
        text = reply["choices"][0]["message"]["content"]
        answers.append(Theirs(text, logits.argmax(axis=-1), logprobs.max(axis=-1)))
    llama.close()
    return answers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alone(engine: LocalEngine) -> list[Completion]:
    return [await engine.generate(request(question)) for question in QUESTIONS]


@pytest.mark.asyncio(loop_scope="session")
async def test_alone(alone: list[Completion], theirs: list[Theirs]) -> None:
    assert len(alone) == 24
    for ours, their in zip(alone, theirs, strict=True):
        n = len(ours.trace)
        assert ours.trace.text == their.text
        assert n > 0
        assert np.array_equal(ours.trace.tokens, their.tokens[:n])
        assert np.allclose(ours.trace.logprobs, their.logprobs[:n], atol=2e-4)


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
