"""ChatRequest -> Query: sampler, messages, policy and needs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.answer import Need, Query
from router.engine.messages import GREEDY, Message, Sampler
from router.json_grammar import json_grammar
from router.json_schema import schema_grammar
from service.errors import ApiError
from service.parse import parse_chat_request
from service.query import to_query, wants_logprobs
from tests.service.scripted import QUESTION


def query(**fields: Any) -> Query:
    parsed = parse_chat_request(json.dumps({**QUESTION, **fields}).encode())
    return to_query(parsed.request, parsed.raw, n_vocab=1000)


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        query(**fields)
    return caught.value


def say(content: Any, role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def test_a_plain_question_is_greedy_and_auto() -> None:
    asked = query()
    assert asked.sampler == GREEDY
    assert asked.mode == "auto"
    assert asked.messages == (Message("user", "Say hello in German"),)
    assert asked.max_tokens is None
    assert asked.stop == ()
    assert asked.estimators is None
    assert asked.needs == ()
    assert not wants_logprobs(asked)


def test_the_sampler_takes_what_is_set() -> None:
    asked = query(
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=-1,
        frequency_penalty=0.5,
        logit_bias={"7": -100, "3": 5},
        seed=9,
    )
    assert asked.sampler == Sampler(0.7, 40, 0.9, 0.05, 1.1, -1, 0.5, ((3, 5), (7, -100)), 9)


def test_a_negative_seed_wraps_around() -> None:
    assert query(temperature=1, seed=-1).sampler.seed == 2**64 - 1


def test_what_only_shapes_a_draw_does_not_make_greedy_decoding_another_sampler() -> None:
    assert query(temperature=0, top_p=0.9, top_k=5, min_p=0.1, seed=7).sampler == GREEDY
    assert query(seed=7).sampler == GREEDY
    assert query(presence_penalty=1).sampler != GREEDY


def test_parameters_that_are_null_are_as_if_left_out() -> None:
    assert query(temperature=None, stop=None, tools=None, n=None, router=None).sampler == GREEDY


@pytest.mark.parametrize(
    ("given", "expected"), [("\n", ("\n",)), (["a", "b"], ("a", "b")), ([], ())]
)
def test_stop_is_a_string_or_several(given: Any, expected: tuple[str, ...]) -> None:
    assert query(stop=given).stop == expected


def test_either_name_bounds_the_tokens() -> None:
    assert query(max_tokens=5).max_tokens == 5
    assert query(max_completion_tokens=6).max_tokens == 6
    assert query(max_tokens=7, max_completion_tokens=7).max_tokens == 7


def test_logprobs() -> None:
    asked = query(logprobs=True, top_logprobs=3)
    assert wants_logprobs(asked)
    assert asked.top_logprobs == 3


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "hold"),
        ({"stream": True}, "hold"),
        ({"stream": True, "router": {"stream_mode": "commit"}}, "commit"),
        ({"router": {"stream_mode": "commit"}}, "hold"),
    ],
)
def test_only_streams_commit_early(fields: dict[str, Any], mode: str) -> None:
    assert query(**fields).stream_mode == mode


def test_the_body_is_the_request_without_the_router_object() -> None:
    asked = query(seed=1, router={"threshold": 0.5})
    assert asked.body == {**QUESTION, "seed": 1}
    assert asked.threshold == 0.5


def test_roles_and_parts_become_turns() -> None:
    asked = query(
        messages=[
            say("Be brief.", "developer"),
            say([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]),
            say([{"type": "refusal", "refusal": "I can't."}], "assistant"),
            say(None, "assistant", refusal="No."),
            say("", "user"),
        ]
    )
    assert asked.messages == (
        Message("system", "Be brief."),
        Message("user", "one\ntwo"),
        Message("assistant", "I can't."),
        Message("assistant", "No."),
        Message("user", ""),
    )
    assert asked.needs == ()


def test_an_assistants_answer_may_be_sent_back_as_it_came() -> None:
    answer = say("Hi!", "assistant", refusal=None, annotations=[], tool_calls=None, audio=None)
    assert query(messages=[say("hi"), answer, say("bye")]).needs == ()


def wants_schema(schema: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    wanted = {"name": "s", **({} if schema is None else {"schema": schema}), **fields}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"n": 9}, "n"),
        (wants_schema({"type": "string", "pattern": "a+"}), "response_format"),
        (wants_schema({"$ref": "https://example.org/s"}), "response_format"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        (
            {"messages": [say([{"type": "image_url", "image_url": {"url": "data:"}}])]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [say([{"type": "input_audio", "input_audio": {"data": ""}}])]},
            "messages[0].content[0]",
        ),
        ({"messages": [say([{"type": "file", "file": {}}])]}, "messages[0].content[0]"),
        ({"messages": [say("x", name="Ann")]}, "messages[0].name"),
        ({"messages": [say(None, "assistant", tool_calls=[CALL])]}, "messages[0].tool_calls"),
        ({"messages": [say("hi"), say("42", "tool", tool_call_id="c1")]}, "messages[1].role"),
        ({"messages": [say("42", "function", name="f")]}, "messages[0].role"),
        (
            {"messages": [say("x", "assistant", annotations=[{"type": "url_citation"}])]},
            "messages[0].annotations",
        ),
    ],
)
def test_what_the_small_model_lacks_is_a_need(fields: dict[str, Any], param: str) -> None:
    needs = query(**fields).needs
    assert [need.param for need in needs] == [param]
    assert needs[0].what


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"reasoning_effort": "none"},
        {"verbosity": "medium"},
        {"service_tier": "auto"},
        {"tools": []},
        {"tool_choice": "none"},
        {"logit_bias": {"999": 1}},
        {"user": "u1", "metadata": {"k": "v"}, "store": False, "safety_identifier": "s"},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"prompt_cache_options": {"mode": "implicit"}},
        {"n": 8},
        {"response_format": {"type": "json_object"}},
        wants_schema({"type": "object"}, strict=True),
    ],
)
def test_what_asks_for_nothing_special_is_no_need(fields: dict[str, Any]) -> None:
    assert query(**fields).needs == ()


def test_what_litellm_adds_to_an_answer_goes_no_further() -> None:
    answer = say("Hello", "assistant")
    added = {**answer, "provider_specific_fields": {"refusal": None}}
    asked = query(messages=[say("Hi"), added, say("Bye")])
    assert asked.body["messages"] == [say("Hi"), answer, say("Bye")]
    assert asked.needs == ()


def test_a_need_says_what_it_is() -> None:
    assert query(n=30).needs == (Need("n", "30 answers at once"),)


def test_formats_become_grammars() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}}
    assert query(response_format={"type": "text"}).sampler.grammar == ""
    assert query(response_format={"type": "json_object"}).sampler.grammar == json_grammar()
    assert query(**wants_schema(schema)).sampler.grammar == schema_grammar(schema)
    assert query(**wants_schema(None)).sampler.grammar == json_grammar()


def test_a_need_for_a_schema_says_what_of_it() -> None:
    (need,) = query(**wants_schema({"type": "string", "pattern": "a+"})).needs
    assert "`pattern`" in need.what


def test_several_answers_are_drawn_unless_the_caller_wants_them_greedy() -> None:
    assert query(n=2).sampler == Sampler(temperature=1.0)
    assert query(n=2, seed=3, top_p=0.5).sampler == Sampler(1.0, top_p=0.5, seed=3)
    assert query(n=2, temperature=0).sampler == GREEDY
    assert query(n=2).n == 2


@pytest.mark.parametrize("mode", ["auto", "local", "remote"])
def test_the_model_is_the_mode(mode: str) -> None:
    assert query(model=mode).mode == mode
    assert query(router={"mode": mode}).mode == mode
    assert query(model=mode, router={"mode": mode}).mode == mode


def test_policy() -> None:
    asked = query(router={"max_risk": 0.1, "local_only": True, "uq": ["perplexity", "margin"]})
    assert asked.max_risk == 0.1
    assert asked.local_only
    assert asked.estimators == ("perplexity", "margin")


def test_another_model_is_not_found() -> None:
    error = refused(model="gpt-6")
    assert error.status == 404
    assert error.code == "model_not_found"
    for name in ("gpt-6", "'auto'", "'local'", "'remote'"):
        assert name in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "remote", "router": {"local_only": True}}, "router.local_only"),
        ({"model": "local", "router": {"mode": "remote"}}, "router.mode"),
        ({"router": {"threshold": 0.5, "max_risk": 0.1}}, "router.max_risk"),
        ({"router": {"uq": ["margin", "astrology"]}}, "router.uq[1]"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "text", "json_schema": {"name": "s"}}},
            "response_format.json_schema",
        ),
        (wants_schema({"type": "strnig"}), "response_format.json_schema.schema"),
        ({"logit_bias": {"hello": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ],
)
def test_contradictions_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.status == 400
    assert error.param == param


def test_an_unknown_estimator_is_told_the_known_ones() -> None:
    assert "perplexity" in refused(router={"uq": ["astrology"]}).message
