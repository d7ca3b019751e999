"""POST /v1/chat/completions streamed: what is sent, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from router.answer import Answer, RemoteChunk
from router.errors import EngineBusy, EngineDown, RouterError, UpstreamUnavailable
from tests.service.scripted import (
    LOCAL,
    LOCAL_STREAM,
    QUESTION,
    REMOTE,
    REMOTE_BODY,
    REMOTE_STREAM,
    REMOTE_USAGE,
    UNCERTAIN,
    ScriptedPipeline,
    Step,
    client_of,
    remote_chunk,
)

USAGE = {"stream_options": {"include_usage": True}}


async def stream(pipeline: ScriptedPipeline, **fields: Any) -> httpx.Response:
    async with client_of(pipeline) as client:
        return await client.post(
            "/v1/chat/completions", json={**QUESTION, "stream": True, **fields}
        )


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the chunks of a stream that is complete."""
    assert response.status_code == 200
    *events, last, rest = response.text.split("\n\n")
    assert last == "data: [DONE]"
    assert rest == ""
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text(parts: list[dict[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for part in parts for choice in part["choices"]
    )


async def test_a_local_answer() -> None:
    response = await stream(ScriptedPipeline())
    parts = chunks(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-router-route"] == "local"
    assert response.headers["x-router-p-correct"] == "0.8300"
    assert response.headers["x-request-id"]
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Grü"},
        {"content": "ße!"},
        {},
    ]
    reasons = [part["choices"][0]["finish_reason"] for part in parts]
    assert reasons == [None, None, None, "stop"]
    assert {part["id"] for part in parts} == {parts[0]["id"]}
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert ["router" in part for part in parts] == [False, False, False, True]
    assert parts[-1]["router"]["p_correct"] == 0.83
    assert parts[-1]["router"]["uncertainty"]["margin"] is None
    assert not any("usage" in part for part in parts)


async def test_with_usage_the_router_object_rides_on_the_usage_chunk() -> None:
    *parts, finish, last = chunks(await stream(ScriptedPipeline(), **USAGE))
    assert all(part["usage"] is None for part in parts)
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert "router" not in finish
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    assert last["router"]["route"] == "local"


async def test_an_answer_that_comes_without_pieces_is_sent_whole() -> None:
    parts = chunks(await stream(ScriptedPipeline(events=[LOCAL.decision, LOCAL])))
    assert text(parts) == "Grüße!"


async def test_an_empty_answer_still_begins_and_ends() -> None:
    empty = replace(LOCAL, text="", trace=None)
    parts = chunks(await stream(ScriptedPipeline(events=[LOCAL.decision, empty])))
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text(parts) == ""
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"


async def test_logprobs_come_with_their_tokens() -> None:
    parts = chunks(await stream(ScriptedPipeline(), logprobs=True, top_logprobs=1))
    assert text(parts) == "Grüße!"
    shown = [part["choices"][0] for part in parts if part["choices"][0]["logprobs"]]
    assert [choice["delta"]["content"] for choice in shown] == ["Gr", "ü", "", "ße!"]
    assert [choice["logprobs"]["content"][0]["logprob"] for choice in shown] == [
        -0.1,
        -0.5,
        -1.5,
        -9999.0,
    ]
    assert all(len(choice["logprobs"]["content"][0]["top_logprobs"]) == 1 for choice in shown)


async def test_a_remote_answer_is_passed_on_as_it_came() -> None:
    response = await stream(ScriptedPipeline(events=REMOTE_STREAM))
    parts = chunks(response)
    assert response.headers["x-router-route"] == "remote"
    assert len(parts) == 4
    sent = [event.body for event in REMOTE_STREAM if isinstance(event, RemoteChunk)]
    ours = parts[0]["id"]
    assert ours != "chatcmpl-up"
    assert parts[:3] == [{**chunk, "id": ours} for chunk in sent[:3]]
    assert parts[3]["id"] == ours
    assert parts[3]["choices"] == sent[3]["choices"]
    assert parts[3]["router"]["route"] == "remote"
    assert parts[3]["router"]["cost_usd"] == 0.004


async def test_a_remote_answer_with_usage() -> None:
    *parts, finish, last = chunks(await stream(ScriptedPipeline(events=REMOTE_STREAM), **USAGE))
    assert text(parts) == "Hello there."
    assert finish["choices"][0]["finish_reason"] == "stop"
    assert "router" not in finish
    assert (last["choices"], last["usage"]) == ([], REMOTE_USAGE)
    assert last["router"]["route"] == "remote"
    assert last["id"] == finish["id"] == parts[0]["id"]
    assert last["model"] == "big"


async def test_an_upstream_with_several_choices_finishes_each() -> None:
    second = remote_chunk(choices=[{"index": 1, "delta": {"content": "b"}, "finish_reason": None}])
    end = remote_chunk(choices=[{"index": 1, "delta": {}, "finish_reason": "stop"}])
    events: list[Step] = [
        UNCERTAIN,
        remote_chunk({"content": "a"}),
        remote_chunk({}, "stop"),
        second,
        end,
        REMOTE,
    ]
    parts = chunks(await stream(ScriptedPipeline(events=events), n=2))
    assert [part["choices"][0]["index"] for part in parts] == [0, 0, 1, 1]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, "stop", None, "stop"]
    assert "router" in parts[-1]


async def test_an_upstream_that_forgot_to_finish_gets_a_finish() -> None:
    events: list[Step] = [UNCERTAIN, remote_chunk({"content": "a"}), REMOTE]
    parts = chunks(await stream(ScriptedPipeline(events=events)))
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert parts[-1]["id"] == parts[0]["id"]


async def again(pipeline: ScriptedPipeline, **fields: Any) -> tuple[httpx.Response, httpx.Response]:
    body = {**QUESTION, "stream": True, **fields}
    async with client_of(pipeline) as client:
        first = await client.post("/v1/chat/completions", json=body)
        return first, await client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM])
@pytest.mark.parametrize("fields", [{}, USAGE, {"logprobs": True}])
async def test_the_second_time_it_streams_from_the_cache(
    events: Sequence[Step], fields: dict[str, Any]
) -> None:
    pipeline = ScriptedPipeline(events=events)
    first, second = await again(pipeline, **fields)
    assert len(pipeline.queries) == 1
    assert first.headers["x-router-cache"] == "miss"
    assert second.headers["x-router-cache"] == "hit"
    assert text(chunks(second)) == text(chunks(first))
    router = chunks(second)[-1]["router"]
    assert router["cache"] == "hit"
    assert router["cost_usd"] == 0
    assert chunks(second)[-1].get("usage") == chunks(first)[-1].get("usage")


# The pipeline may keep the upstream's usage chunk to itself.
WITHOUT_USAGE = (*REMOTE_STREAM[:5], REMOTE_STREAM[6])


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM, WITHOUT_USAGE])
@pytest.mark.parametrize("streamed_first", [True, False])
async def test_streamed_and_not_share_the_cache(
    events: Sequence[Step], streamed_first: bool
) -> None:
    reply = LOCAL if events is LOCAL_STREAM else REMOTE
    pipeline = ScriptedPipeline(reply, events=events)
    async with client_of(pipeline) as client:
        for streamed in (streamed_first, not streamed_first):
            body = {**QUESTION, "stream": streamed}
            response = await client.post("/v1/chat/completions", json=body)
            if streamed:
                assert text(chunks(response)) == reply.text
            else:
                assert response.json()["usage"]["total_tokens"] in (11, 12)
                message = response.json()["choices"][0]["message"]
                assert (message["role"], message["content"]) == ("assistant", reply.text)
    assert len(pipeline.queries) == 1


async def test_tools_and_logprobs_in_one_stream_are_passed_on() -> None:
    entry = {"token": "f", "logprob": -0.5, "bytes": [102], "top_logprobs": []}
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f"}}
    first = remote_chunk({"role": "assistant", "tool_calls": [call]})
    first.body["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
    events: list[Step] = [
        UNCERTAIN,
        first,
        remote_chunk({}, "tool_calls"),
        replace(REMOTE, text="", finish_reason="tool_calls", remote_body=None),
    ]
    pipeline = ScriptedPipeline(events=events)
    tools = [{"type": "function", "function": {"name": "f"}}]
    told = chunks(await stream(pipeline, tools=tools, logprobs=True, top_logprobs=2))
    assert pipeline.queries[0].needs[0].param == "tools"
    choice = told[0]["choices"][0]
    assert choice["delta"]["tool_calls"] == [call]
    assert choice["logprobs"]["content"] == [entry]
    assert told[-1]["router"]["p_correct"] == UNCERTAIN.p_correct


async def test_tool_calls_survive_the_cache() -> None:
    call = {"index": 0, "id": "c1", "type": "function"}
    events: list[Step] = [
        UNCERTAIN,
        remote_chunk({"role": "assistant", "tool_calls": [{**call, "function": {"name": "f"}}]}),
        remote_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
        remote_chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
        remote_chunk({}, "stop"),
        replace(REMOTE, text="", remote_body=None),
    ]
    tools = [{"type": "function", "function": {"name": "f"}}]
    _, second = await again(ScriptedPipeline(events=events), tools=tools)
    delta = chunks(second)[0]["choices"][0]["delta"]
    assert delta["tool_calls"] == [{**call, "function": {"name": "f", "arguments": '{"a":1}'}}]
    assert "content" not in delta


@pytest.mark.parametrize(
    ("failure", "status"),
    [(EngineBusy(64, 3), 503), (EngineDown("gone"), 503), (UpstreamUnavailable("refused"), 502)],
)
async def test_what_fails_before_the_decision_is_an_http_error(
    failure: RouterError, status: int
) -> None:
    response = await stream(ScriptedPipeline(events=[failure]))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert "error" in response.json()


CUTS: list[tuple[Sequence[Step], str]] = [
    ([*REMOTE_STREAM[:3], UpstreamUnavailable("the upstream cut")], "upstream_unavailable"),
    # The finish chunk had arrived, but not the end: truncated must not look complete.
    ([*REMOTE_STREAM[:5], UpstreamUnavailable("the upstream cut")], "upstream_unavailable"),
    ([*LOCAL_STREAM[:2], EngineDown("killed")], "engine_down"),
]


@pytest.mark.parametrize(("events", "code"), CUTS)
async def test_a_cut_stream_ends_with_an_error_and_never_looks_complete(
    events: Sequence[Step], code: str
) -> None:
    pipeline = ScriptedPipeline(events=events)
    async with client_of(pipeline) as client:
        body = {**QUESTION, "stream": True}
        response = await client.post("/v1/chat/completions", json=body)
        assert "[DONE]" not in response.text
        *sent, last, rest = response.text.split("\n\n")
        assert rest == ""
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
        assert 'finish_reason":"stop' not in "".join(sent)
        assert 'router":{' not in response.text
        await client.post("/v1/chat/completions", json=body)
        assert len(pipeline.queries) == 2, "a cut answer must not be kept"
        metrics = (await client.get("/metrics")).text
    assert "router_streams_cut_total 2.0" in metrics


async def test_a_pipeline_that_ends_without_an_answer_is_a_cut_too() -> None:
    with pytest.raises(ConnectionAbortedError):
        await stream(ScriptedPipeline(events=LOCAL_STREAM[:2]))
    response = await stream(ScriptedPipeline(events=[]))
    assert response.status_code == 500


async def test_the_same_body_streamed_for_a_non_streaming_upstream_body() -> None:
    body = {**REMOTE_BODY, "choices": [{"message": {"content": "x"}}]}
    answer = replace(REMOTE, remote_body=body)
    parts = chunks(await stream(ScriptedPipeline(events=[UNCERTAIN, answer])))
    assert text(parts) == "x"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_last_chunk_says_when_a_committed_answer_fell_below_the_threshold() -> None:
    last = LOCAL_STREAM[-1]
    assert isinstance(last, Answer)
    fell = replace(last.decision, reason="uncertain", degraded=True, p_correct=0.2)
    pipeline = ScriptedPipeline(events=[*LOCAL_STREAM[:-1], replace(last, decision=fell)])
    response = await stream(pipeline, router={"stream_mode": "commit"})
    told = chunks(response)[-1]["router"]
    assert (told["route"], told["degraded"], told["p_correct"]) == ("local", True, 0.2)
    assert response.headers["x-router-degraded"] == "false", "known only at the end"
    assert pipeline.queries[0].stream_mode == "commit"


async def test_an_operator_may_have_all_streams_commit_early() -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline, stream_mode="commit") as client:
        for asked in ({"stream": True}, {"stream": False}):
            await client.post("/v1/chat/completions", json={**QUESTION, **asked})
    assert [query.stream_mode for query in pipeline.queries] == ["commit", "hold"]
