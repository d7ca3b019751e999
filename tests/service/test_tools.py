"""Tools for the local model: what it is told of them, and its calls in OpenAI's words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from router.answer import Query, StreamEvent
from router.engine.messages import GREEDY, TOOLS, Message
from router.tools import CLOSE, Tool, calls_grammar
from service.errors import ApiError
from service.parse import parse_chat_request
from service.query import to_query
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    QUESTION,
    ScriptedPipeline,
    client_of,
    openai_client,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Grüße", "parameters": SCHEMA},
}
NEWS = {"type": "function", "function": {"name": "news"}}
TWO = {"tools": [WEATHER, NEWS]}


def query(**fields: Any) -> Query:
    parsed = parse_chat_request(json.dumps({**QUESTION, **fields}).encode())
    return to_query(parsed.request, parsed.raw, n_vocab=1000, local_tools=True)


def named(name: str) -> dict[str, Any]:
    return {"tool_choice": {"type": "function", "function": {"name": name}}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    wanted = {"mode": mode, "tools": tools}
    return {"tool_choice": {"type": "allowed_tools", "allowed_tools": wanted}}


class TestWhatTheModelIsTold:
    def test_it_may_call_what_is_declared(self) -> None:
        asked = query(**TWO)
        assert asked.needs == ()
        assert asked.tools == frozenset({"weather", "news"})
        declared, *rest = asked.messages
        assert declared == Message(TOOLS, json.dumps([WEATHER, NEWS], ensure_ascii=False))
        assert rest == [Message("user", "Say hello in German")]
        assert asked.sampler == GREEDY
        assert asked.comes_whole

    def test_it_may_not_without_tools_or_where_none_is_wished(self) -> None:
        for fields in ({}, {**TWO, "tool_choice": "none"}):
            asked = query(**fields)
            assert (asked.tools, asked.needs, len(asked.messages)) == (None, (), 1)
            assert not asked.comes_whole

    @pytest.mark.parametrize(
        ("fields", "grammar"),
        [
            ({"tool_choice": "auto"}, ""),
            ({"tool_choice": "required"}, calls_grammar([Tool("weather", SCHEMA), Tool("news")])),
            (named("news"), calls_grammar([Tool("news")])),
            (allowed("required", "weather"), calls_grammar([Tool("weather", SCHEMA)])),
            (
                {**named("news"), "parallel_tool_calls": False},
                calls_grammar([Tool("news")], most=1),
            ),
        ],
    )
    def test_a_call_is_forced_where_it_is_wished(
        self, fields: dict[str, Any], grammar: str
    ) -> None:
        assert query(**TWO, **fields).sampler.grammar == grammar

    def test_only_those_allowed_are_declared(self) -> None:
        asked = query(**TWO, **allowed("auto", "news"))
        assert asked.tools == frozenset({"news"})
        assert json.loads(asked.messages[0].content) == [NEWS]

    def test_one_call_at_a_time_ends_the_answer(self) -> None:
        assert query(**TWO, stop="x", parallel_tool_calls=False).stop == ("x", CLOSE)
        assert query(**TWO, parallel_tool_calls=True).stop == ()

    def test_earlier_calls_and_results_are_told_as_the_model_writes_them(self) -> None:
        function = {"name": "weather", "arguments": '{"city": "Rome"}'}
        call = {"id": "c1", "type": "function", "function": function}
        turns = [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Wait.", "tool_calls": [call, call]},
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        ]
        asked = query(messages=turns)
        written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        assert asked.needs == ()
        assert asked.messages[1:] == (
            Message("assistant", f"Wait.\n{written}\n{written}"),
            Message("tool", "sunny"),
        )


PATTERN = {"type": "object", "properties": {"a": {"pattern": "x"}}}


def strict(parameters: dict[str, Any]) -> dict[str, Any]:
    function = {"name": "weather", "strict": True, "parameters": parameters}
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER, {"type": "custom", "custom": {"name": "c"}}]}, "tools[1]"),
        ({"tools": [strict(SCHEMA)]}, "tools[0].function.strict"),
        ({"tools": [strict(PATTERN)], "tool_choice": "required"}, "tools"),
        ({**TWO, "tool_choice": {"type": "custom", "custom": {"name": "c"}}}, "tool_choice"),
        ({**TWO, "response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"id": "c", "type": "custom", "custom": {}}],
                    }
                ]
            },
            "messages[0].tool_calls[0]",
        ),
    ],
)
def test_what_the_model_can_not_do_with_tools_is_a_need(fields: dict[str, Any], param: str) -> None:
    assert [need.param for need in query(**fields).needs] == [param]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"required": 1}}}
                ],
                "tool_choice": "required",
            },
            "tools",
        ),
        ({**TWO, **named("sports")}, "tool_choice"),
        ({**TWO, "tool_choice": "maybe"}, "tool_choice"),
        ({**TWO, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({**TWO, **allowed("auto", "sports")}, "tool_choice"),
        (
            {
                **TWO,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [1]},
                },
            },
            "tool_choice",
        ),
    ],
)
def test_what_is_malformed_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        query(**fields)
    assert caught.value.body()["error"]["param"] == param


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
CALLS = replace(LOCAL, text=f"Wait.\n{CALL}\n{CALL}", finish_reason="tool_calls")
EVENTS: list[StreamEvent] = [CONFIDENT, CALLS]
ASK: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": "Weather?"}],
    "tools": [WEATHER],
}


@pytest.mark.parametrize("logprobs", [False, True])
def test_its_calls_are_openais_streamed_or_not(logprobs: bool) -> None:
    pipeline = ScriptedPipeline(CALLS, EVENTS)
    with openai_client(pipeline, local_tools="on") as client:
        whole = client.chat.completions.create(**ASK, logprobs=logprobs).choices[0]
        with client.chat.completions.stream(
            **{**ASK, "tools": [strict(SCHEMA)], "logprobs": logprobs}
        ) as stream:
            streamed = stream.get_final_completion().choices[0]
    for choice in (whole, streamed):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Wait."
        assert choice.message.tool_calls is not None
        calls = [call.model_dump() for call in choice.message.tool_calls]
        assert [call["function"]["name"] for call in calls] == ["weather", "weather"]
        assert [json.loads(call["function"]["arguments"]) for call in calls] == 2 * [
            {"city": "Köln"}
        ]
        assert len({call["id"] for call in calls}) == 2
        assert (choice.logprobs is not None) == logprobs


def test_of_several_answers_each_may_call() -> None:
    others = (replace(CALLS.choices[0], trace=None, pieces=()), LOCAL.choices[0])
    pipeline = ScriptedPipeline(replace(CALLS, others=others))
    with openai_client(pipeline, local_tools="on") as client:
        choices = client.chat.completions.create(**ASK, n=3).choices
    assert [choice.finish_reason for choice in choices] == ["tool_calls", "tool_calls", "stop"]
    ids = [call.id for choice in choices for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == 4


async def test_the_decision_alone_is_made_with_the_tools_too() -> None:
    pipeline = ScriptedPipeline(CALLS)
    async with client_of(pipeline, local_tools="on") as client:
        reply = await client.post("/v1/route", json=ASK)
    assert reply.json()["answer"]["finish_reason"] == "tool_calls"
    assert pipeline.queries[0].tools == frozenset({"weather"})


async def test_without_the_setting_tools_are_for_the_upstream() -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline) as client:
        await client.post("/v1/chat/completions", json=ASK)
    assert [need.param for need in pipeline.queries[0].needs] == ["tools"]
    assert pipeline.queries[0].tools is None
