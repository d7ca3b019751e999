"""Tool calls as models write them: what is read, what is none, and what a grammar allows."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.engine.messages import Completion, EngineTimings
from router.json_schema import SchemaError, UnsupportedSchemaError
from router.tools import (
    MAX_CALLS,
    Call,
    MalformedCallError,
    Said,
    Tool,
    calls_grammar,
    is_malformed,
    read_calls,
    with_calls,
)
from tests.router.samples import trace

PARIS = Call("weather", '{"city": "Paris"}')
ROME = Call("weather", '{"city": "Rome"}')
NAMES = frozenset({"weather"})

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(
    said=st.text().filter(lambda text: "<tool_call>" not in text),
    calls=st.lists(
        st.builds(
            lambda name, value: Call(name, json.dumps(value, ensure_ascii=False)),
            st.text(min_size=1),
            st.dictionaries(st.text(), JSON_VALUES, max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_what_is_written_is_read(said: str, calls: list[Call]) -> None:
    text = "\n".join([said, *map(str, calls)])
    assert read_calls(text) == Said(said.strip(), tuple(calls))


@pytest.mark.parametrize(
    "text", ["", " Hello. ", '{"name": "weather"}', '```json\n{"a": 1}\n```', "{", "```\n```"]
)
def test_an_answer_without_calls_is_its_text(text: str) -> None:
    assert read_calls(text, NAMES) == Said(text)


@pytest.mark.parametrize(
    "text",
    [
        str(PARIS).removesuffix("</tool_call>"),
        '<tool_call>{"arguments":{"city":"Paris"},"name":"weather"}</tool_call>\n\n',
        ' {"name": "weather", "arguments": {"city": "Paris"}}\n',
        '```json\n{"name": "weather", "arguments": {"city": "Paris"}}\n```',
    ],
)
def test_models_may_write_it_a_little_differently(text: str) -> None:
    assert read_calls(text, NAMES) == Said("", (PARIS,))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<tool_call>", "JSON"),
        ('<tool_call>\n{"name": "weather", "argu', "JSON"),
        ('<tool_call>{"name": "weather", "arguments": {"x": NaN}}</tool_call>', "JSON"),
        ("<tool_call>" + "[" * 100_000, "JSON"),
        ('<tool_call>{"name": "weather"}</tool_call>', "arguments"),
        ('<tool_call>{"name": "weather", "arguments": "{}"}</tool_call>', "arguments"),
        ('<tool_call>{"arguments": {}}</tool_call>', "name"),
        ("<tool_call>[1]</tool_call>", "name"),
        ('<tool_call>{"name": "news", "arguments": {}}</tool_call>', "no tool 'news'"),
        (f"{PARIS} It is sunny.", "goes on"),
        ('{"name": "news", "arguments": {}}', "no tool 'news'"),
        (2 * '{"name": "weather", "arguments": {}}\n', "goes on"),
        ('{"name": "weather", "arguments": {}} It is sunny.', "goes on"),
        ('<tool_call>{"name": "weather", "arguments": {}}}</tool_call>', "closed"),
    ],
)
def test_what_begins_as_a_call_and_is_none(text: str, why: str) -> None:
    with pytest.raises(MalformedCallError, match=why):
        read_calls(text, NAMES)


def completion(text: str, finish_reason: str = "stop") -> Completion:
    made = dataclasses.replace(trace((text, 0.9)), finish_reason=finish_reason)
    return Completion(made, EngineTimings())


def test_an_answer_that_calls_says_so() -> None:
    called = with_calls(completion(str(PARIS)), NAMES)
    assert called.trace.finish_reason == "tool_calls"
    assert not is_malformed(called.trace, NAMES)


@pytest.mark.parametrize(
    ("answer", "names", "malformed"),
    [
        (completion("Hello."), NAMES, False),
        (completion("<tool_call>oops"), NAMES, True),
        (completion(str(PARIS)), frozenset({"news"}), True),
        (completion(str(PARIS)), None, False),
        (completion("", "gated"), NAMES, False),
    ],
)
def test_one_that_calls_nothing_stays_as_it_is(
    answer: Completion, names: frozenset[str] | None, malformed: bool
) -> None:
    assert with_calls(answer, names) is answer
    assert is_malformed(answer.trace, names) == malformed


def test_one_that_was_given_up_is_no_call() -> None:
    stopped = completion(str(PARIS), "stopped")
    assert with_calls(stopped, NAMES) is stopped


PATTERN: dict[str, Any] = {"type": "object", "properties": {"a": {"pattern": "x"}}}


def test_a_schema_beyond_grammars_is_any_object_unless_it_is_strict() -> None:
    assert " object " in calls_grammar([Tool("f", PATTERN)])
    with pytest.raises(UnsupportedSchemaError, match="pattern"):
        calls_grammar([Tool("f", PATTERN, strict=True)])


def test_a_schema_that_nothing_satisfies_is_an_error() -> None:
    with pytest.raises(SchemaError, match="required"):
        calls_grammar([Tool("f", {"required": "a"})])


def test_references_stay_within_their_own_tool() -> None:
    tools = [
        Tool(name, {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": kind}}})
        for name, kind in (("f", "string"), ("g", "integer"))
    ]
    grammar = calls_grammar(tools, most=1)
    assert "{0,0}" in grammar
    assert {"string", "integer"} <= {line.split("::= ")[1] for line in grammar.splitlines()}
    assert f"{{0,{MAX_CALLS - 1}}}" in calls_grammar(tools)
