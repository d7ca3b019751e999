"""Gathers what an estimator needs beyond the answer: follow-ups, samples, option scores.

Every request begins with the answer's own prompt, so the engine finds its beginning in the slot
that made the answer and reads only what is new.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from calibration.options import extract_choice
from router.engine.engine import Engine
from router.engine.messages import GenerateRequest, Message, Sampler, SampleRequest, ScoreRequest
from router.errors import ContinuationTooLong, PromptTooLong
from router.multiple_choice import find_options
from uq import Trace
from uq.signals import OptionScores, Sample, Signal

N_SAMPLES = 5
"""m of the founding paper."""

_P_TRUE = "Is that answer correct? Reply True or False."
_VERBAL_2S = "How sure are you that your answer is right? Reply with a number from 0 to 100."
_VERBAL_1S = (
    'Give your answer, then on a new line write "Confidence:" and a number from 0 to 100 that says '
    "how sure you are of it."
)
_VERBAL_2S_TOKENS = 12
_VERBAL_1S_TOKENS = 16
"""Room for the confidence, on top of the answer's own."""

_ORDER: tuple[Signal, ...] = ("p_true", "verbal_2s", "options", "verbal_1s", "samples")
"""What goes on from the answer comes first: the others cut it off in the slot that holds it."""


async def gather(
    engine: Engine, request: GenerateRequest, trace: Trace, signals: Iterable[Signal], *, seed: int
) -> Trace:
    """Return `trace`, the answer to `request`, with those of `signals` that it lacks.

    What can't be had stays None: options of a question that has none, hidden states (which only
    the answer itself yields), a follow-up that no longer fits the context.

    Parameters
    ----------
    seed : of the samples; the same seed draws the same samples.

    Raises
    ------
    EngineBusy, EngineDown, EngineError
    """
    wanted = set(signals)
    for signal in _ORDER:
        if signal not in wanted or getattr(trace, signal) is not None:
            continue
        try:
            value = await _one(engine, request, trace, signal, seed)
        except (PromptTooLong, ContinuationTooLong):
            continue
        trace = dataclasses.replace(trace, **{signal: value})
    return trace


async def _one(
    engine: Engine, request: GenerateRequest, trace: Trace, signal: Signal, seed: int
) -> Any:
    match signal:
        case "p_true":
            return await _p_true(engine, request, trace)
        case "options":
            return await _options(engine, request, trace)
        case "verbal_2s":
            asked = _follow_up(request, trace, _VERBAL_2S)
            return await _greedy_text(engine, request, asked, _VERBAL_2S_TOKENS)
        case "verbal_1s":
            room = None if request.max_tokens is None else request.max_tokens + _VERBAL_1S_TOKENS
            asked = _with_instruction(request, _VERBAL_1S)
            return await _greedy_text(engine, request, asked, room)
        case "samples":
            return await _samples(engine, request, seed)
        case "hidden":
            return trace.hidden


async def _p_true(engine: Engine, request: GenerateRequest, trace: Trace) -> tuple[float, float]:
    messages = _follow_up(request, trace, _P_TRUE)
    true, false = (await engine.score(_scored(request, messages, ("True", "False")))).totals()
    return true, false


async def _options(engine: Engine, request: GenerateRequest, trace: Trace) -> OptionScores | None:
    *before, last = request.messages
    question = find_options(last.content)
    if question is None:
        return None
    letters = tuple(chr(ord("A") + i) for i in range(len(question.options)))
    by_letter = await engine.score(_scored(request, request.messages, letters))
    cloze = (*before, Message(last.role, question.stem))
    by_text = await engine.score(_scored(request, cloze, question.options))
    chosen = extract_choice(trace.text, question.options)
    return OptionScores(
        letters=np.array(by_letter.totals()),
        texts=np.array(by_text.totals()),
        lengths=np.array([len(tokens) for tokens in by_text.logprobs]),
        chosen=-1 if chosen is None else letters.index(chosen),
    )


async def _samples(engine: Engine, request: GenerateRequest, seed: int) -> tuple[Sample, ...]:
    drawn = dataclasses.replace(
        request,
        sampler=Sampler(temperature=1.0, seed=seed, grammar=request.sampler.grammar),
        hidden=False,
        stream=False,
        exits=None,  # set for greedy answers
    )
    completions = await engine.sample(SampleRequest(drawn, N_SAMPLES))
    return tuple(Sample(c.trace.text, c.trace.logprobs) for c in completions)


async def _greedy_text(
    engine: Engine,
    request: GenerateRequest,
    messages: tuple[Message, ...],
    max_tokens: int | None,
) -> str:
    asked = GenerateRequest(messages, max_tokens=max_tokens, tenant=request.tenant)
    return (await engine.generate(asked)).trace.text


def _scored(
    request: GenerateRequest, messages: tuple[Message, ...], continuations: tuple[str, ...]
) -> ScoreRequest:
    return ScoreRequest(messages, continuations, tenant=request.tenant)


def _follow_up(request: GenerateRequest, trace: Trace, question: str) -> tuple[Message, ...]:
    return (*request.messages, Message("assistant", trace.text), Message("user", question))


def _with_instruction(request: GenerateRequest, instruction: str) -> tuple[Message, ...]:
    *before, last = request.messages
    return (*before, Message(last.role, f"{last.content}\n\n{instruction}"))
