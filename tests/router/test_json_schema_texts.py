"""What the grammar of a schema lets through satisfies the schema, whatever both are."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from router.engine.llama import Model
from router.json_grammar import json_grammar
from router.json_schema import SchemaError, UnsupportedSchemaError, schema_grammar
from router.tools import MAX_CALLS, Tool, calls_grammar, read_calls
from tests.router.gbnf import Grammar, passes

NAMES = st.sampled_from(["a", "b", 'say "hi"', "\\", "Grüße\n", "", "]"])
SMALL = st.integers(0, 3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(-2, 2) | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


def keywords(fixed: dict[str, Any], /, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    always = {name: st.just(value) for name, value in fixed.items()}
    return st.fixed_dictionaries(always, optional=optional)


LEAVES = st.one_of(
    st.just(True),
    st.just({}),
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"$ref": "#/$defs/x"}]),
    keywords({"type": "string"}, minLength=SMALL, maxLength=SMALL),
    st.sampled_from(["date", "time", "date-time", "uuid"]).map(lambda name: {"format": name}),
    keywords({"type": "integer"}, minimum=SMALL, exclusiveMaximum=st.integers(-1, 300)),
    keywords({"type": "integer"}, exclusiveMinimum=st.integers(-300, 2), maximum=SMALL),
    keywords({"type": "number"}, minimum=st.just(0)),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
    st.lists(
        st.sampled_from(["null", "integer", "string", "array", "object"]), min_size=1, unique=True
    ).map(lambda kinds: {"type": kinds, "minLength": 1, "minItems": 1, "minimum": 0}),
)


def composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        keywords(
            {"type": "object"},
            properties=st.dictionaries(NAMES, inner, max_size=3),
            required=st.lists(NAMES, max_size=2, unique=True),
            additionalProperties=st.booleans() | inner,
        ),
        keywords({"type": "array"}, items=inner, minItems=SMALL, maxItems=SMALL),
        st.builds(
            lambda first, bounds: {"prefixItems": first, "items": False, **bounds},
            some,
            keywords({}, minItems=SMALL, maxItems=SMALL),
        ),
        some.map(lambda options: {"anyOf": options}),
        inner.map(lambda only: {"allOf": [only], "title": "t"}),
    )


SCHEMAS = st.recursive(LEAVES, composed, max_leaves=6)


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    model = Model(model_path)
    yield model
    model.close()


@settings(max_examples=200)
@given(
    schema=SCHEMAS.filter(lambda schema: isinstance(schema, dict)),
    defined=SCHEMAS,
    seed=st.integers(0, 2**32),
)
@example(schema={"prefixItems": [True, True], "items": False, "maxItems": 1}, defined=True, seed=0)
@example(schema={"type": "string", "maxLength": 0}, defined=True, seed=0)
@example(schema={"type": "array", "maxItems": 1}, defined=True, seed=0)
def test_every_text_that_a_schemas_grammar_allows_satisfies_it(
    model: Model, schema: dict[str, Any], defined: Any, seed: int
) -> None:
    schema = {**schema, "$defs": {"x": defined}}
    try:
        grammar = schema_grammar(schema)
    except (SchemaError, UnsupportedSchemaError):
        assume(False)
    texts = Grammar(grammar)
    assume(texts.ends)
    valid = jsonschema_rs.validator_for(schema, validate_formats=True)
    chance = random.Random(seed)
    for _ in range(5):
        text = texts.walk(chance)
        assert valid.is_valid(json.loads(text)), text
    assert passes(model, grammar, text), text


@given(seed=st.integers(0, 2**32))
def test_every_text_of_the_grammar_of_objects_is_one(seed: int) -> None:
    assert isinstance(json.loads(Grammar(json_grammar()).walk(random.Random(seed))), dict)


@given(
    names=st.lists(NAMES.filter(bool), min_size=1, max_size=3, unique=True),
    parameters=SCHEMAS,
    most=st.sampled_from([1, MAX_CALLS]),
    seed=st.integers(0, 2**32),
)
def test_every_text_of_a_grammar_of_calls_is_calls_that_satisfy_their_tools(
    names: list[str], parameters: Any, most: int, seed: int
) -> None:
    schema = {"type": "object", "properties": {"a": parameters}, "$defs": {"x": True}}
    tools = [Tool(name, schema, strict=True) for name in names]
    try:
        grammar = Grammar(calls_grammar(tools, most=most))
    except (SchemaError, UnsupportedSchemaError):
        assume(False)
    assume(grammar.ends)
    calls = read_calls(grammar.walk(random.Random(seed)), names).calls
    assert 1 <= len(calls) <= most
    valid = jsonschema_rs.validator_for(schema, validate_formats=True)
    assert all(valid.is_valid(json.loads(call.arguments)) for call in calls)
