"""Anthropic's messages API in OpenAI's shape: what is sent, what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from router.answer import Usage
from router.errors import UpstreamRejected, UpstreamUnavailable
from router.prices import Prices
from router.remote import Timeouts, Upstream
from router.upstreams.anthropic import MAX_TOKENS, Anthropic
from router.upstreams.dialect import NotExpressible
from tests.router.fake_upstream import Server, Step, answer, event, scripted, streamed

KEY = "sk-ant-0123456789"
BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "four"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 3},
}


@asynccontextmanager
async def claude(step: Step, retries: int = 0) -> AsyncIterator[tuple[Upstream, Server]]:
    async with (
        scripted(step) as server,
        Upstream(
            server.url,
            "claude-x",
            KEY,
            name="claude",
            api="anthropic",
            prices=Prices(1.0, 10.0),
            timeouts=Timeouts(2.0, 5.0, 10.0),
            retries=retries,
            backoff=0.001,
        ) as client,
    ):
        yield client, server


def sent(**fields: Any) -> dict[str, Any]:
    """What is sent for a request with these fields."""
    return Anthropic().request({**BODY, **fields}, "claude-x", stream=False)


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = sent(messages=list(messages))["messages"]
    return made


class TestRequest:
    async def test_where_it_goes_and_who_asks(self) -> None:
        async with claude(answer(MESSAGE)) as (client, server):
            await client.chat(BODY)
        (request,) = server.requests
        assert request.line == "POST /v1/messages HTTP/1.1"
        assert request.headers["x-api-key"] == KEY
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert "authorization" not in request.headers
        assert request.body == {
            "model": "claude-x",
            "max_tokens": MAX_TOKENS,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}],
        }

    def test_system_prompts_stand_apart(self) -> None:
        body = sent(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "Hello"},
            ]
        )
        assert body["system"] == "Be brief.\n\nBe kind."
        assert len(body["messages"]) == 1

    def test_limits_and_samplers(self) -> None:
        body = sent(max_completion_tokens=5, temperature=0.0, top_p=0.5, top_k=4, stop="END")
        assert (body["max_tokens"], body["stop_sequences"]) == (5, ["END"])
        assert (body["temperature"], body["top_p"], body["top_k"]) == (0.0, 0.5, 4)

    def test_advice_and_what_asks_for_nothing_are_left_out(self) -> None:
        more = {
            "router": {"mode": "remote"},
            "seed": 1,
            "user": "u",
            "metadata": {"a": "b"},
            "n": 1,
            "logprobs": False,
            "presence_penalty": 0,
            "response_format": {"type": "text"},
            "stream_options": {"include_usage": True},
            "tools": None,
        }
        assert sent(**more) == sent()

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"n": 2}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"frequency_penalty": 0.5}, "frequency_penalty"),
            ({"logit_bias": {"1": 5}}, "logit_bias"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"temperature": 1.5}, "temperature"),
            ({"functions": [{"name": "f"}]}, "functions"),
            ({"audio": {"voice": "x"}}, "audio"),
            ({"something_new": 3}, "something_new"),
            ({"tools": [{"type": "web"}]}, "tools[0]"),
        ],
    )
    async def test_what_can_not_be_said_is_refused_unsent(
        self, fields: dict[str, Any], param: str
    ) -> None:
        async with claude(answer(MESSAGE)) as (client, server):
            with pytest.raises(NotExpressible) as caught:
                await client.chat({**BODY, **fields})
        assert server.requests == []
        assert caught.value.status == 400
        error: Any = caught.value.body["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_by_upstream")
        assert "which Anthropic's API does not offer" in error["message"]

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "function", "name": "f", "content": "x"},
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]},
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[1]"}}],
            },
        ],
    )
    def test_so_is_such_a_message(self, message: dict[str, Any]) -> None:
        with pytest.raises(NotExpressible, match=r"messages\[1\]"):
            turns({"role": "user", "content": "Hello"}, message)

    def test_images(self) -> None:
        urls = "data:image/png;base64,AAAA", "https://h/x.png"
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        (turn,) = turns({"role": "user", "content": parts})
        assert [block["source"] for block in turn["content"]] == [
            {"type": "base64", "media_type": "image/png", "data": "AAAA"},
            {"type": "url", "url": "https://h/x.png"},
        ]

    def test_tools(self) -> None:
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        function = {"name": "weather", "description": "Of a city", "parameters": schema}
        tools = [{"type": "function", "function": function}]
        declared = {"name": "weather", "description": "Of a city", "input_schema": schema}
        body = sent(tools=tools)
        assert (body["tools"], body["tool_choice"]) == ([declared], {"type": "auto"})
        named = {"type": "function", "function": {"name": "weather"}}
        for theirs, ours in (
            ("required", {"type": "any", "disable_parallel_tool_use": True}),
            ("none", {"type": "none"}),
            (named, {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}),
        ):
            asked = sent(tools=tools, tool_choice=theirs, parallel_tool_calls=False)
            assert asked["tool_choice"] == ours

    def test_calls_and_their_results(self) -> None:
        calls = [
            {"id": i, "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            for i in "ab"
        ]
        user, assistant, results = turns(
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "I look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "a", "content": "warm"},
            {"role": "tool", "tool_call_id": "b", "content": "cold"},
            {"role": "user", "content": "So?"},
        )
        assert user["role"] == "user"
        assert assistant["content"] == [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
            {"type": "tool_use", "id": "b", "name": "f", "input": {"x": 1}},
        ]
        assert results["role"] == "user"
        assert [block["type"] for block in results["content"]] == [
            "tool_result",
            "tool_result",
            "text",
        ]
        assert results["content"][0]["tool_use_id"] == "a"


class TestAnswer:
    async def test_as_a_chat_completion(self) -> None:
        async with claude(answer(MESSAGE)) as (client, _):
            result = await client.chat(BODY)
        assert (result.text, result.finish_reason) == ("four", "stop")
        assert result.usage == Usage(prompt_tokens=9, completion_tokens=3)
        assert result.upstream == "claude"
        assert result.cost_usd == pytest.approx(39 / 1e6)
        body = dict(result.body)
        assert body.pop("created") > 0
        message = {"role": "assistant", "content": "four"}
        assert body == {
            "id": "msg_1",
            "object": "chat.completion",
            "model": "claude-x",
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        }

    @pytest.mark.parametrize(
        ("reason", "finish"),
        [
            ("max_tokens", "length"),
            ("stop_sequence", "stop"),
            ("tool_use", "tool_calls"),
            ("refusal", "content_filter"),
            ("something_new", "stop"),
        ],
    )
    async def test_why_it_ended(self, reason: str, finish: str) -> None:
        async with claude(answer({**MESSAGE, "stop_reason": reason})) as (client, _):
            assert (await client.chat(BODY)).finish_reason == finish

    async def test_tool_calls(self) -> None:
        block = {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": "é"}}
        body = {**MESSAGE, "content": [block], "stop_reason": "tool_use"}
        async with claude(answer(body)) as (client, _):
            result = await client.chat(BODY)
        message = result.body["choices"][0]["message"]
        assert message["content"] is None
        (call,) = message["tool_calls"]
        assert (call["id"], call["type"], call["function"]["name"]) == ("t1", "function", "f")
        assert json.loads(call["function"]["arguments"]) == {"x": "é"}

    async def test_overloaded_is_repeated(self) -> None:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        async with claude(answer(error, 529), retries=1) as (client, server):
            server.steps.append(answer(MESSAGE))
            assert (await client.chat(BODY)).text == "four"

    async def test_a_rejection_has_openais_shape(self) -> None:
        error = {"type": "invalid_request_error", "message": "max_tokens: too large"}
        async with claude(answer({"type": "error", "error": error}, 400)) as (client, _):
            with pytest.raises(UpstreamRejected) as caught:
                await client.chat(BODY)
        assert caught.value.body == {"error": {**error, "param": None, "code": None}}

    @pytest.mark.parametrize("body", [{"content": "four"}, {"content": [1]}, {"choices": []}])
    async def test_what_is_no_message(self, body: dict[str, Any]) -> None:
        async with claude(answer(body)) as (client, _):
            with pytest.raises(UpstreamUnavailable, match="sent no message"):
                await client.chat(BODY)

    async def test_the_key_is_in_no_error(self) -> None:
        async with claude(answer({"error": KEY}, 401)) as (client, _):
            with pytest.raises(UpstreamUnavailable) as caught:
                await client.chat(BODY)
        assert KEY not in str(caught.value)


START = {
    "type": "message_start",
    "message": {**MESSAGE, "content": [], "usage": {"input_tokens": 7, "output_tokens": 1}},
}
STOP = {"type": "message_stop"}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def block(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def ends(reason: str) -> dict[str, Any]:
    usage = {"output_tokens": 5}
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


async def collect(step: Step) -> list[dict[str, Any]]:
    async with claude(step) as (client, server), aclosing(client.stream(BODY)) as chunks:
        made = [chunk async for chunk in chunks]
        assert server.requests[0].body["stream"] is True
        assert "stream_options" not in server.requests[0].body
        return made


def events(*items: dict[str, Any]) -> Step:
    named = [f"event: {item['type']}\n".encode() + event(item) for item in items]
    return streamed(*named)


class TestStream:
    async def test_text(self) -> None:
        chunks = await collect(
            events(
                START,
                block(0, type="text", text=""),
                {"type": "ping"},
                delta(0, type="text_delta", text="fo"),
                delta(0, type="text_delta", text="ur"),
                {"type": "content_block_stop", "index": 0},
                ends("end_turn"),
                STOP,
            )
        )
        choices = [chunk["choices"][0] for chunk in chunks[:-1]]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "four"
        assert choices[-1]["finish_reason"] == "stop"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == {
            "prompt_tokens": 7,
            "completion_tokens": 5,
            "total_tokens": 12,
        }
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk["id"] for chunk in chunks} == {"msg_1"}

    async def test_tool_calls(self) -> None:
        chunks = await collect(
            events(
                START,
                block(0, type="text", text="Hm."),
                block(1, type="tool_use", id="t1", name="f", input={}),
                delta(1, type="input_json_delta", partial_json='{"x"'),
                delta(1, type="input_json_delta", partial_json=": 1}"),
                ends("tool_use"),
                STOP,
            )
        )
        calls = [
            call
            for chunk in chunks
            for choice in chunk["choices"]
            for call in choice["delta"].get("tool_calls", ())
        ]
        assert {call["index"] for call in calls} == {0}
        assert (calls[0]["id"], calls[0]["function"]["name"]) == ("t1", "f")
        arguments = "".join(call["function"]["arguments"] for call in calls)
        assert json.loads(arguments) == {"x": 1}

    @pytest.mark.parametrize(
        ("items", "words"),
        [
            ([START, delta(0, type="text_delta", text="a")], "cut the stream"),
            ([START, {"type": "error", "error": {"message": "late"}}], "broke off .*late"),
            ([START, {"type": "content_block_delta"}], "none of Anthropic's"),
            ([{"type": "message_start", "message": 3}], "none of Anthropic's"),
        ],
    )
    async def test_a_broken_one_never_looks_complete(
        self, items: list[dict[str, Any]], words: str
    ) -> None:
        with pytest.raises(UpstreamUnavailable, match=words):
            await collect(events(*items))

    async def test_hanging_up(self) -> None:
        async with claude(streamed(event(START), 3600.0)) as (client, server):
            async with aclosing(client.stream(BODY)) as chunks:
                await anext(chunks)
            await asyncio.wait_for(server.hung_up.wait(), 5)
