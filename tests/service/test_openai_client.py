"""The unmodified `openai` package against the gateway on a real socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from router.errors import CapabilityError, EngineBusy, PromptTooLong, UpstreamUnavailable
from tests.service.scripted import (
    CONFIDENT,
    LOCAL_STREAM,
    REMOTE,
    REMOTE_STREAM,
    TWO,
    ScriptedPipeline,
    openai_client,
)

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello"}]


def test_in_one_piece() -> None:
    with openai_client(ScriptedPipeline()) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto",
            messages=MESSAGES,
            logprobs=True,
            top_logprobs=1,
            extra_body={"router": {"threshold": 0.5, "uq": ["perplexity"]}},
        )
        answer = raw.parse()
    assert raw.headers["x-router-route"] == "local"
    choice = answer.choices[0]
    assert choice.message.content == "Grüße!"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert bytes(byte for token in choice.logprobs.content for byte in token.bytes or ()).decode()
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11
    assert answer.model_extra is not None
    assert answer.model_extra["router"]["p_correct"] == 0.83


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM])
@pytest.mark.parametrize("usage", [True, False])
def test_streamed(events: Any, usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    with openai_client(ScriptedPipeline(events=events)) as client:
        for cache in ("miss", "hit"):
            with client.chat.completions.create(
                model="auto", messages=MESSAGES, stream=True, **options
            ) as stream:
                chunks = list(stream)
            with_choices = chunks[:-1] if usage else chunks
            text = "".join(chunk.choices[0].delta.content or "" for chunk in with_choices)
            assert text == ("Grüße!" if events is LOCAL_STREAM else "Hello there.")
            assert with_choices[-1].choices[0].finish_reason == "stop"
            assert (chunks[-1].usage is not None) == usage
            extra = chunks[-1].model_extra
            assert extra is not None
            assert extra["router"]["cache"] == cache


def test_the_clients_own_accumulator_understands_the_stream() -> None:
    with (
        openai_client(ScriptedPipeline()) as client,
        client.chat.completions.stream(
            model="auto", messages=MESSAGES, logprobs=True, stream_options={"include_usage": True}
        ) as stream,
    ):
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Grüße!"
    assert final.choices[0].logprobs is not None
    assert len(final.choices[0].logprobs.content or ()) == 4
    assert final.usage is not None


def test_several_choices() -> None:
    pipeline = ScriptedPipeline(TWO, [CONFIDENT, TWO])
    with openai_client(pipeline) as client:
        whole = client.chat.completions.create(model="auto", messages=MESSAGES, n=2)
        with client.chat.completions.stream(model="auto", messages=MESSAGES, n=2) as stream:
            streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        assert [choice.message.content for choice in answer.choices] == ["Grüße!", "Hallo!"]
        assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
    assert [query.n for query in pipeline.queries] == [2, 2]


def test_a_cut_stream_raises() -> None:
    pipeline = ScriptedPipeline(events=[*REMOTE_STREAM[:3], UpstreamUnavailable("it cut")])
    with (
        openai_client(pipeline) as client,
        client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream,
    ):
        assert next(stream).choices
        with pytest.raises(openai.APIError, match="it cut"):
            list(stream)


def test_a_stream_cut_by_our_own_fault_does_not_look_complete() -> None:
    pipeline = ScriptedPipeline(events=[CONFIDENT, LOCAL_STREAM[1], ZeroDivisionError()])
    with (
        openai_client(pipeline) as client,
        client.chat.completions.create(model="auto", messages=MESSAGES, stream=True) as stream,
        pytest.raises(Exception, match=r"(?i)incomplete|connection"),
    ):
        list(stream)


Check = Callable[[openai.APIStatusError], bool]


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (PromptTooLong(5000, 4096), openai.BadRequestError, "context_length_exceeded"),
        (CapabilityError("tools", "tools"), openai.BadRequestError, "unsupported_by_local_model"),
        (EngineBusy(64, 1), openai.InternalServerError, "engine_busy"),
    ],
)
def test_errors_become_the_packages_own(
    failure: Exception, kind: type[openai.APIStatusError], code: str
) -> None:
    with openai_client(ScriptedPipeline(failure)) as client, pytest.raises(kind) as caught:
        client.chat.completions.create(model="auto", messages=MESSAGES)
    assert caught.value.code == code
    assert caught.value.request_id


def test_models() -> None:
    with openai_client(ScriptedPipeline()) as client:
        assert [model.id for model in client.models.list()] == ["auto", "local", "remote"]
        assert client.models.retrieve("local").owned_by == "seek-stronger"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-6")
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-6", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


def test_tool_calls_pass_through() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
    reply = replace(
        REMOTE,
        finish_reason="tool_calls",
        remote_body={**(REMOTE.remote_body or {}), "choices": [choice]},
    )
    pipeline = ScriptedPipeline(reply)
    with openai_client(pipeline) as client:
        answer = client.chat.completions.create(
            model="auto",
            messages=MESSAGES,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            tool_choice="auto",
            parallel_tool_calls=False,
        )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].id == "c1"
    assert [need.param for need in pipeline.queries[0].needs] == ["tools"]
