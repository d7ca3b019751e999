"""Gathering signals: what the engine is asked, and what comes of it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from router.engine.local import LocalEngine
from router.engine.messages import (
    GREEDY,
    Completion,
    EngineTimings,
    GenerateRequest,
    Message,
    Sampler,
    SampleRequest,
    ScoreRequest,
    Scores,
)
from router.errors import EngineDown, EngineError, PromptTooLong
from router.signals import N_SAMPLES, gather
from tests.router.samples import trace
from tests.router.simple_engine import SimpleEngine
from uq.signals import SIGNALS, HiddenStates, OptionScores, Sample, Signal
from uq.trace import Trace

Asked = GenerateRequest | SampleRequest | ScoreRequest

QUESTION = "Which is a fruit?\nA. Apple\nB. Brick"
REQUEST = GenerateRequest(
    (Message("system", "Be brief."), Message("user", QUESTION)),
    max_tokens=20,
    stop=("\n\n",),
    stream=True,
    hidden=True,
)
FOLLOWED = (*REQUEST.messages, Message("assistant", "A. Apple"))
ANSWER = trace(("A.", 0.9), (" Apple", 0.8))
ALL_BUT_HIDDEN = [signal for signal in SIGNALS if signal != "hidden"]
in_session = pytest.mark.asyncio(loop_scope="session")


class ScriptedEngine(SimpleEngine):
    """Answers "90", samples "one", "two", ...; each text's score is minus its length."""

    def __init__(self, error: EngineError | None = None, fails: type[Asked] | None = None) -> None:
        self.asked: list[Asked] = []
        self._error = error
        self._fails = fails

    async def generate(self, request: GenerateRequest) -> Completion:
        self._take(request)
        return Completion(trace(("90", 0.5)), EngineTimings())

    async def sample(self, request: SampleRequest) -> tuple[Completion, ...]:
        self._take(request)
        words = ("one", "two", "three", "four", "five")[: request.n]
        return tuple(Completion(trace((word, 0.25)), EngineTimings()) for word in words)

    async def score(self, request: ScoreRequest) -> Scores:
        self._take(request)
        return Scores(tuple((-1.0,) * len(text) for text in request.continuations))

    def _take(self, request: Asked) -> None:
        self.asked.append(request)
        if self._error is not None and (self._fails is None or isinstance(request, self._fails)):
            raise self._error


async def gathered(
    engine: ScriptedEngine,
    *signals: Signal,
    request: GenerateRequest = REQUEST,
    answer: Trace = ANSWER,
) -> Trace:
    return await gather(engine, request, answer, signals, seed=11)


def values(seen: Trace) -> dict[str, object]:
    return {signal: getattr(seen, signal) for signal in SIGNALS}


async def test_nothing_wanted_nothing_asked() -> None:
    engine = ScriptedEngine()
    assert await gathered(engine) is ANSWER
    assert engine.asked == []


async def test_p_true_asks_after_the_answer() -> None:
    engine = ScriptedEngine()
    seen = await gathered(engine, "p_true")
    [asked] = engine.asked
    assert isinstance(asked, ScoreRequest)
    assert asked.messages[:-1] == FOLLOWED
    assert asked.messages[-1].role == "user"
    assert asked.continuations == ("True", "False")
    assert seen.p_true == (-4.0, -5.0)


async def test_verbal_2s_asks_after_the_answer_greedily_and_briefly() -> None:
    engine = ScriptedEngine()
    seen = await gathered(engine, "verbal_2s")
    [asked] = engine.asked
    assert isinstance(asked, GenerateRequest)
    assert asked.messages[:-1] == FOLLOWED
    assert "0 to 100" in asked.messages[-1].content
    assert asked.sampler == GREEDY
    assert asked.max_tokens is not None
    assert asked.max_tokens < 20
    assert asked.stop == ()
    assert seen.verbal_2s == "90"


@pytest.mark.parametrize("room", [20, None])
async def test_verbal_1s_asks_the_question_again_with_more_room(room: int | None) -> None:
    engine = ScriptedEngine()
    request = dataclasses.replace(REQUEST, max_tokens=room)
    seen = await gathered(engine, "verbal_1s", request=request)
    [asked] = engine.asked
    assert isinstance(asked, GenerateRequest)
    *before, last = asked.messages
    assert tuple(before) == REQUEST.messages[:-1]
    assert last.role == "user"
    assert last.content.startswith(QUESTION + "\n\n")
    assert "Confidence:" in last.content
    assert (asked.max_tokens is None) == (room is None)
    assert asked.max_tokens is None or asked.max_tokens > 20
    assert asked.sampler == GREEDY
    assert seen.verbal_1s == "90"


async def test_samples_are_drawn_at_temperature_1_with_the_seed() -> None:
    engine = ScriptedEngine()
    request = dataclasses.replace(REQUEST, sampler=Sampler(temperature=0.3, top_k=4, seed=5))
    seen = await gathered(engine, "samples", request=request)
    [asked] = engine.asked
    assert isinstance(asked, SampleRequest)
    assert asked.n == N_SAMPLES
    assert asked.request == dataclasses.replace(
        REQUEST, sampler=Sampler(temperature=1.0, seed=11), hidden=False, stream=False
    )
    assert seen.samples is not None
    assert [sample.text for sample in seen.samples] == ["one", "two", "three", "four", "five"]
    assert all(sample.logprobs.tolist() == [math.log(0.25)] for sample in seen.samples)


@pytest.mark.parametrize(
    ("text", "chosen"), [("B", 1), ("A. Apple", 0), ("the brick", 1), ("no idea", -1), ("", -1)]
)
async def test_options_are_scored_as_letters_and_as_texts(text: str, chosen: int) -> None:
    engine = ScriptedEngine()
    answer = trace((text, 0.9)) if text else trace()
    seen = await gathered(engine, "options", answer=answer)
    letters, cloze = engine.asked
    assert letters == ScoreRequest(REQUEST.messages, ("A", "B"))
    stem = (REQUEST.messages[0], Message("user", "Which is a fruit?"))
    assert cloze == ScoreRequest(stem, ("Apple", "Brick"))
    assert seen.options is not None
    assert seen.options.letters.tolist() == [-1.0, -1.0]
    assert seen.options.texts.tolist() == [-5.0, -5.0]
    assert seen.options.lengths.tolist() == [5, 5]
    assert seen.options.chosen == chosen


async def test_a_question_without_options_has_no_option_scores() -> None:
    engine = ScriptedEngine()
    request = dataclasses.replace(REQUEST, messages=(Message("user", "Why?"),))
    assert (await gathered(engine, "options", request=request)).options is None
    assert engine.asked == []


async def test_what_goes_on_from_the_answer_is_asked_first() -> None:
    engine = ScriptedEngine()
    seen = await gathered(engine, *reversed(SIGNALS))
    p_true, verbal_2s, letters, _, verbal_1s, samples = engine.asked
    for asked in (p_true, verbal_2s):
        assert isinstance(asked, ScoreRequest | GenerateRequest)
        assert asked.messages[: len(FOLLOWED)] == FOLLOWED
    for other in (letters, verbal_1s):
        assert isinstance(other, ScoreRequest | GenerateRequest)
        assert len(other.messages) == len(REQUEST.messages)
    assert isinstance(samples, SampleRequest)
    missing = [name for name, value in values(seen).items() if value is None]
    assert missing == ["hidden"]  # which only the answer itself can bring


async def test_the_answer_itself_stays_as_it_is() -> None:
    seen = await gathered(ScriptedEngine(), *SIGNALS)
    nothing: Any = dict.fromkeys(SIGNALS)
    assert dataclasses.replace(seen, **nothing).to_dict() == ANSWER.to_dict()


FULL = dataclasses.replace(
    ANSWER,
    hidden=HiddenStates((3,), *np.ones((3, 1, 2), np.float32)),
    p_true=(-0.5, -1.0),
    verbal_2s="",
    verbal_1s="",
    samples=(Sample("a", np.array([-1.0])),),
    options=OptionScores(np.zeros(2), np.zeros(2), np.ones(2, np.int64), 0),
)


async def test_what_is_there_is_not_asked_again() -> None:
    engine = ScriptedEngine()
    assert await gathered(engine, *SIGNALS, answer=FULL) is FULL
    assert engine.asked == []


@pytest.mark.parametrize("lacks", ALL_BUT_HIDDEN)
async def test_only_what_is_lacking_is_asked(lacks: Signal) -> None:
    nothing: Any = {lacks: None}
    answer = dataclasses.replace(FULL, **nothing)
    engine, alone = ScriptedEngine(), ScriptedEngine()
    seen = await gathered(engine, *SIGNALS, answer=answer)
    await gathered(alone, lacks)
    assert engine.asked == alone.asked
    kept = {name: value for name, value in values(seen).items() if name != lacks}
    assert all(value is getattr(FULL, name) for name, value in kept.items())
    assert getattr(seen, lacks) is not None


async def test_a_follow_up_that_does_not_fit_stays_none_and_the_rest_goes_on() -> None:
    engine = ScriptedEngine(PromptTooLong(600, 512), ScoreRequest)
    seen = await gathered(engine, *SIGNALS)
    present = {name for name, value in values(seen).items() if value is not None}
    assert present == {"verbal_2s", "verbal_1s", "samples"}
    nothing = await gathered(ScriptedEngine(PromptTooLong(600, 512)), *SIGNALS)
    assert set(values(nothing).values()) == {None}


async def test_an_engine_that_fails_is_heard() -> None:
    with pytest.raises(EngineDown, match="it died"):
        await gathered(ScriptedEngine(EngineDown("it died")), *SIGNALS)


LONG = "Here is a list of towns: " + ", ".join(f"town number {i}" for i in range(28)) + "."


def long_question(number: int) -> GenerateRequest:
    text = f"Question {number}. {LONG} Which town is the last?"
    return GenerateRequest((Message("user", text),), max_tokens=6)


async def read_for(
    engine: LocalEngine, request: GenerateRequest, *signals: Signal
) -> tuple[int, int]:
    """Prompt tokens that gathering made the engine read, and those of the answer's prompt."""
    seen = (await engine.generate(request)).trace
    before = (await engine.stats()).prefilled_tokens
    await gather(engine, request, seen, signals, seed=1)
    return (await engine.stats()).prefilled_tokens - before, seen.n_prompt


@pytest.mark.model
@in_session
async def test_real_signals_are_in_their_ranges_and_repeatable(engine: LocalEngine) -> None:
    question = Message("user", "Which is a fruit?\nA. Apple\nB. Brick\nAnswer with a letter.")
    request = GenerateRequest((question,), max_tokens=12)
    answer = (await engine.generate(request)).trace
    seen = await gather(engine, request, answer, SIGNALS, seed=3)
    assert seen.p_true is not None
    assert all(-math.inf < logprob < 0 for logprob in seen.p_true)
    assert sum(map(math.exp, seen.p_true)) <= 1
    assert seen.options is not None
    assert np.exp(seen.options.letters).sum() <= 1
    assert (seen.options.texts < 0).all()
    assert (seen.options.lengths >= 1).all()
    assert seen.verbal_2s
    assert seen.verbal_1s
    assert seen.samples is not None
    assert len(seen.samples) == N_SAMPLES
    assert seen.hidden is None
    answer = (await engine.generate(request)).trace  # its slot holds it again as it was decoded
    again = await gather(engine, request, answer, SIGNALS, seed=3)
    assert again.to_dict() == seen.to_dict()
    other = await gather(engine, request, answer, ["samples"], seed=400)
    assert other.samples is not None
    assert [s.text for s in other.samples] != [s.text for s in seen.samples]


@pytest.mark.model
@in_session
async def test_follow_ups_read_only_what_is_new(engine: LocalEngine) -> None:
    for number, signal in enumerate(ALL_BUT_HIDDEN):
        read, n_prompt = await read_for(engine, long_question(number), signal)
        assert n_prompt > 150
        assert read < 80, signal


@pytest.mark.model
@in_session
async def test_all_follow_ups_together_read_less_than_the_prompt_again(
    engine: LocalEngine,
) -> None:
    read, n_prompt = await read_for(engine, long_question(99), *SIGNALS)
    assert read < 0.8 * n_prompt


@pytest.mark.model
@in_session
async def test_what_no_longer_fits_the_context_stays_none(engine: LocalEngine) -> None:
    text = "word " * (engine.info.n_context - 40)
    request = GenerateRequest((Message("user", text),), max_tokens=3)
    answer = (await engine.generate(request)).trace
    seen = await gather(engine, request, answer, ["p_true", "samples"], seed=1)
    assert seen.p_true is None
    assert seen.samples is not None
