"""Hidden states: the right tensors, whoever else is served, compiled or not, free when unused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from router.engine.compiled import is_compiled
from router.engine.context import BatchEntry, Context
from router.engine.llama import Model
from router.engine.local import LocalEngine
from router.engine.messages import EngineConfig, GenerateRequest, Message, default_hidden_layers
from router.engine.tap import Copy, Tap
from router.errors import EngineError
from tests.router.engine.make_hidden_states import FIXTURE, MAX_TOKENS, QUESTION
from uq.signals import HiddenStates

pytestmark = pytest.mark.model
in_session = pytest.mark.asyncio(loop_scope="session")

PLACES = ("prompt_end", "answer_last", "answer_mean")


def asked(question: str, max_tokens: int = MAX_TOKENS, *, hidden: bool = True) -> GenerateRequest:
    return GenerateRequest((Message("user", question),), max_tokens=max_tokens, hidden=hidden)


async def states_of(engine: LocalEngine, request: GenerateRequest) -> HiddenStates:
    hidden = (await engine.generate(request)).trace.hidden
    assert hidden is not None
    return hidden


@in_session
async def test_states_equal_those_of_an_independent_forward_pass(engine: LocalEngine) -> None:
    reference = np.load(FIXTURE)
    assert engine.info.model_sha256 == str(reference["model_sha256"])
    completion = await engine.generate(asked(QUESTION))
    assert completion.trace.tokens.tolist() == reference["answer"].tolist()
    hidden = completion.trace.hidden
    assert hidden is not None
    assert hidden.layers == tuple(reference["layers"])
    for place in PLACES:
        for ours, theirs in zip(getattr(hidden, place), reference[place], strict=True):
            expected = theirs.astype(np.float64)
            error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
            assert error < 0.04, place  # llama.cpp rounds activations to 8 bits in each product


@in_session
async def test_states_do_not_depend_on_who_else_is_served(engine: LocalEngine) -> None:
    questions = ["Name a colour.", "What is 7 plus 5?", "Where is Rome?", "Say hello.", QUESTION]
    alone = [await states_of(engine, asked(q)) for q in questions]
    rest = [asyncio.create_task(engine.generate(asked(q, hidden=False))) for q in ("Joke!", "Why?")]
    together = await asyncio.gather(*(states_of(engine, asked(q)) for q in reversed(questions)))
    await asyncio.gather(*rest)
    for one, other in zip(alone, together[::-1], strict=True):
        for place in PLACES:
            np.testing.assert_array_equal(getattr(one, place), getattr(other, place))


@in_session
async def test_asking_for_states_changes_nothing_else(engine: LocalEngine) -> None:
    with_states = (await engine.generate(asked(QUESTION))).trace
    without = (await engine.generate(asked(QUESTION, hidden=False))).trace
    assert without.hidden is None
    np.testing.assert_array_equal(with_states.tokens, without.tokens)
    np.testing.assert_array_equal(with_states.logprobs, without.logprobs)


@in_session
async def test_an_answer_of_one_cut_token_has_no_answer_states(engine: LocalEngine) -> None:
    hidden = await states_of(engine, asked(QUESTION, max_tokens=1))
    assert np.isfinite(hidden.prompt_end).all()
    assert np.isnan(hidden.answer_last).all()
    assert np.isnan(hidden.answer_mean).all()


def test_the_compiled_callback_copies_what_the_one_in_python_does(
    engine_config: EngineConfig,
) -> None:
    assert is_compiled(), "the package was installed without a compiler"
    model = Model(Path(engine_config.model_path))
    prompt = model.tokenize("The quick brown fox", add_special=False, parse_special=False)
    results = []
    for compiled in (False, True):
        tap = Tap((3, 22), width=model.n_embd, capacity=2, compiled=compiled)
        with Context(model, n_context=64, n_seq=2, n_batch=32, n_threads=1, tap=tap) as context:
            tap.arm(Copy.LAST_ROW)
            context.decode([BatchEntry(0, prompt, 0, want_logits=True)])
            last = tap.states(1).copy()
            tap.arm(Copy.NOTHING)
            context.decode([BatchEntry(1, prompt, 0, want_logits=True)])
            tap.arm(Copy.ALL_ROWS)
            both = [BatchEntry(seq, [5 + seq], len(prompt), want_logits=True) for seq in (0, 1)]
            context.decode(both)
            results.append((last, tap.states(2).copy()))
            tap.arm(Copy.ALL_ROWS)
            context.decode([BatchEntry(0, prompt, len(prompt) + 1, want_logits=True)])
            with pytest.raises(EngineError, match="too many came"):
                tap.states(2)
    model.close()
    for in_python, in_c in zip(*results, strict=True):
        assert np.abs(in_python).max() > 0
        np.testing.assert_array_equal(in_python, in_c)


@pytest.mark.parametrize(
    ("n_layer", "layers"), [(30, (12, 16, 22, 25, 28)), (24, (9, 13, 16, 20, 22)), (4, (1, 2, 3))]
)
def test_default_layers_hold_the_eighth_from_the_end(n_layer: int, layers: tuple[int, ...]) -> None:
    assert default_hidden_layers(n_layer) == layers


@in_session
async def test_layers_that_the_model_has_not_are_refused(engine_config: EngineConfig) -> None:
    engine = LocalEngine(EngineConfig(engine_config.model_path, hidden_layers=(99,)))
    with pytest.raises(EngineError, match="layer 99; the model has 30"):
        await engine.start()
