"""Answers that have to follow a grammar: what passes, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.engine.grammar import Grammar
from router.engine.llama import Model
from router.engine.local import LocalEngine
from router.engine.messages import (
    Completion,
    EngineConfig,
    GenerateRequest,
    Message,
    Sampler,
    SampleRequest,
)
from router.errors import EngineError
from router.json_grammar import json_grammar
from router.json_schema import schema_grammar
from tests.router.gbnf import passes

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["kind", "tall"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASK = (Message("user", "Describe a person named Ann, 34 years old, as JSON."),)


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    model = Model(model_path)
    yield model
    model.close()


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "label": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["label", "children"],
        }
    },
}
OPTIONAL = {
    "properties": {name: {"type": "integer"} for name in "abc"},
    "required": ["b"],
}
ALL_OPTIONAL = {"properties": {"a": {"type": "null"}, "b": {"type": "boolean"}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, ['"a"', "1", "null", '{"a": [1, {"b": false}]}'], ["", "{", "[1,]", "tru"]),
        ({"type": "boolean"}, ["true", "false"], ["null", "True"]),
        ({"type": ["null", "integer"]}, ["null", "-12", "0"], ["1.5", "01", '"1"']),
        ({"type": "number"}, ["-1.25e-3", "3", "0.5"], ["1.", ".5", "1e999", "NaN"]),
        ({"type": "number", "minimum": 0}, ["0.25"], ["-0.25"]),
        ({"type": "integer", "minimum": 0}, ["0", "17"], ["-1"]),
        ({"type": "integer", "exclusiveMinimum": 0}, ["1"], ["0"]),
        ({"type": "integer", "minimum": 9, "maximum": 11}, ["9", "10", "11"], ["8", "12", "1"]),
        ({"type": "string"}, ['"Grüße\\n \\u00e9 \\ud7ff"'], ['"a', '"\n"', '"\\x"', '"\\ud800"']),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"äöü"'], ['"a"', '"abcd"']),
        ({"format": "date"}, ['"2024-12-31"', '"2023-02-28"'], ['"2023-02-30"', '"2024-13-01"']),
        ({"format": "date-time"}, ['"2024-12-31T23:59:00.5Z"'], ['"2024-12-31 23:59:00"']),
        ({"format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"'], ['"123e4567"']),
        ({"enum": ['say "hi"', 3, None]}, ['"say \\"hi\\""', "3", "null"], ['"say"', "4"]),
        ({"enum": ["a", 1], "type": "string"}, ['"a"'], ["1"]),
        ({"const": {"a": [1]}}, ['{"a":[1]}'], ['{"a":[2]}']),
        ({"type": "array", "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]"]),
        ({"type": "array", "minItems": 2}, ["[1,2]", "[1,2,3]"], ["[1]"]),
        ({"items": {"type": "integer"}}, ["[]", "[1,2]"], ['["a"]']),
        ({"type": "array", "maxItems": 0}, ["[]"], ["[1]"]),
        (
            {"prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
            ["[1, null]"],
            ["[1]", "[1, 2]", "[1, null, 3]"],
        ),
        (
            OPTIONAL,
            ['{"b": 1}', '{"a": 1, "b": 2}', '{"b": 1, "c": 2}', '{"a":1,"b":2,"c":3}'],
            ["{}", '{"a": 1}', '{"b": 1, "b": 2}', '{"b": 1,}', '{, "b": 1}', '{"d": 1, "b": 2}'],
        ),
        (
            ALL_OPTIONAL,
            ["{}", '{"a": null}', '{"b": true}', '{\n  "a": null,\n  "b": false\n}'],
            ['{"b": true, "a": null}', '{"a": null "b": true}'],
        ),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            ["{}", '{"x": 1, "y": 2}'],
            ['{"x": "1"}'],
        ),
        ({"required": ["x"]}, ['{"x": [1]}'], ["{}"]),
        ({"anyOf": [{"type": "null"}, {"const": "a"}]}, ["null", '"a"'], ['"b"']),
        (
            TREE,
            ['{"label": "a", "children": [{"label": "b", "children": []}]}'],
            ['{"label": "a", "children": [1]}'],
        ),
    ],
)
def test_what_passes_is_what_satisfies_the_schema(
    model: Model, schema: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    grammar = schema_grammar(schema)
    assert [text for text in good if not passes(model, grammar, text)] == []
    assert [text for text in bad if passes(model, grammar, text)] == []


def test_any_object(model: Model) -> None:
    assert passes(model, json_grammar(), '{"a": {"b": [1, "c", null]}}')
    assert not passes(model, json_grammar(), "[1]")


def test_no_control_token_passes_for_text(model: Model) -> None:
    (control,) = model.tokenize("<|im_start|>", add_special=False, parse_special=True)
    grammar = Grammar(model, schema_grammar({"type": "string"}))
    for token in model.tokenize('"', add_special=False, parse_special=False):
        grammar.accept(token)
    assert not grammar.allows(control)


def test_a_mask_says_the_same_as_asking_for_each_token(model: Model) -> None:
    grammar = Grammar(model, schema_grammar(PERSON))
    row = np.zeros(model.n_vocab, np.float32)
    grammar.mask(row)
    allowed = {int(token) for token in np.flatnonzero(row == 0.0)}
    assert allowed == {token for token in range(model.n_vocab) if grammar.allows(token)}
    assert {model.piece(token)[:1] for token in allowed} == {b"{"}


def test_no_grammar(model: Model) -> None:
    with pytest.raises(EngineError, match="grammar"):
        Grammar(model, "root ::= (")


def person(**changes: Any) -> GenerateRequest:
    sampler = Sampler(grammar=schema_grammar(PERSON), **changes)
    return GenerateRequest(ASK, sampler, max_tokens=120)


def assert_is_person(completion: Completion) -> None:
    assert completion.trace.finish_reason == "stop"
    made = json.loads(completion.trace.text)
    assert isinstance(made["name"], str)
    assert made["age"] >= 0
    assert made.keys() <= {"name", "age", "tags"}


async def test_a_greedy_answer_satisfies_its_schema_and_keeps_the_models_own_statistics(
    engine: LocalEngine,
) -> None:
    ask = (Message("user", "Say hello to Ann, please."),)
    free = await engine.generate(GenerateRequest(ask, max_tokens=4, top_logprobs=1))
    bound = await engine.generate(dataclasses.replace(person(), messages=ask, top_logprobs=1))
    assert_is_person(bound)
    # The same row, of which the grammar took another token.
    assert bound.trace.entropies[0] == free.trace.entropies[0]
    assert bound.trace.top_ids[0] == free.trace.top_ids[0]
    assert bound.trace.tokens[0] != free.trace.tokens[0]
    assert bound.trace.logprobs[0] < free.trace.logprobs[0]


@pytest.mark.parametrize("temperature", [0.7, 2.0])
async def test_a_drawn_answer_satisfies_its_schema(engine: LocalEngine, temperature: float) -> None:
    request = person(temperature=temperature, seed=3)
    for completion in await engine.sample(SampleRequest(request, 3)):
        assert_is_person(completion)


async def test_penalties_and_filters_leave_the_schema_alone(engine: LocalEngine) -> None:
    request = person(temperature=1.0, top_p=0.5, top_k=3, min_p=0.1, frequency_penalty=2.0, seed=1)
    assert_is_person(await engine.generate(request))


async def test_others_in_the_same_batch_are_not_touched(engine: LocalEngine) -> None:
    free = GenerateRequest((Message("user", "Count from one to ten."),), max_tokens=30)
    alone = await engine.generate(free)
    beside, bound = await asyncio.gather(engine.generate(free), engine.generate(person()))
    assert beside.trace.text == alone.trace.text
    assert np.array_equal(beside.trace.logprobs, alone.trace.logprobs)
    assert_is_person(bound)


async def test_an_answer_that_is_cut_off_says_so(engine: LocalEngine) -> None:
    cut = await engine.generate(dataclasses.replace(person(), max_tokens=3))
    assert cut.trace.finish_reason == "length"


async def test_a_text_that_is_no_grammar_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(EngineError, match="grammar"):
        await engine.generate(GenerateRequest(ASK, Sampler(grammar="root ::= (")))


async def test_guessing_tokens_changes_no_answer(
    engine: LocalEngine, engine_config: EngineConfig
) -> None:
    guessing = LocalEngine(
        dataclasses.replace(engine_config, slots=1, speculative="lookup", hidden_layers=())
    )
    request = GenerateRequest(
        (Message("user", 'Repeat: {"name": "Ann", "age": 34, "tags": ["kind", "tall"]}'),),
        Sampler(grammar=schema_grammar(PERSON)),
        max_tokens=80,
    )
    await guessing.start()
    try:
        guessed = await guessing.generate(request)
    finally:
        await guessing.close()
    plain = await engine.generate(request)
    assert guessed.n_guessed > 0
    assert guessed.trace.text == plain.trace.text
