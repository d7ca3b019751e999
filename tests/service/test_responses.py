"""OpenAI's endpoint for responses, driven by the unmodified `openai` package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import openai
import pydantic
import pytest

from router.answer import Answer
from router.engine.messages import Message, TextDelta
from router.errors import UpstreamUnavailable
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    LOCAL_STREAM,
    REMOTE,
    REMOTE_STREAM,
    ScriptedPipeline,
    openai_client,
    remote_chunk,
)


def test_in_one_piece() -> None:
    pipeline = ScriptedPipeline()
    with openai_client(pipeline) as client:
        response = client.responses.create(
            model="auto",
            input="Say hello",
            instructions="Be brief.",
            max_output_tokens=20,
            metadata={"k": "v"},
            user="u",
            store=False,
            extra_body={"router": {"threshold": 0.5}},
        )
    assert response.output_text == "Grüße!"
    assert response.id.startswith("resp_")
    assert response.status == "completed"
    assert response.error is None
    assert response.instructions == "Be brief."
    assert response.metadata == {"k": "v"}
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (7, 4)
    assert response.model_extra is not None
    assert response.model_extra["router"]["route"] == "local"
    (query,) = pipeline.queries
    assert query.messages == (Message("system", "Be brief."), Message("user", "Say hello"))
    assert query.max_tokens == 20
    assert query.threshold == 0.5
    assert query.body["max_completion_tokens"] == 20


def test_of_the_upstream() -> None:
    with openai_client(ScriptedPipeline(REMOTE)) as client:
        response = client.responses.create(model="auto", input="Say hello")
    assert response.output_text == "Hello there."
    assert response.model == "big-model"
    assert response.id.startswith("resp_")
    assert response.created_at == 1700000000


def test_a_conversation_with_what_an_answer_carried() -> None:
    pipeline = ScriptedPipeline()
    with openai_client(pipeline) as client:
        first = client.responses.create(model="auto", input=[{"role": "user", "content": "Hi"}])
        turns: list[Any] = [{"role": "user", "content": "Hi"}]
        turns += [item.model_dump(exclude_none=True) for item in first.output]
        turns.append({"role": "user", "content": [{"type": "input_text", "text": "Again"}]})
        client.responses.create(model="auto", input=turns)
    assert pipeline.queries[1].messages == (
        Message("user", "Hi"),
        Message("assistant", "Grüße!"),
        Message("user", "Again"),
    )


def test_an_image_goes_to_the_upstream() -> None:
    pipeline = ScriptedPipeline(REMOTE)
    picture: Any = {"type": "input_image", "image_url": "data:image/png;base64,", "detail": "low"}
    with openai_client(pipeline) as client:
        client.responses.create(model="auto", input=[{"role": "user", "content": [picture]}])
    (query,) = pipeline.queries
    assert [need.what for need in query.needs] == ["image input"]
    assert query.body["messages"][0]["content"][0]["image_url"]["detail"] == "low"


class Greeting(pydantic.BaseModel):
    word: str


def test_a_parsed_answer() -> None:
    pipeline = ScriptedPipeline(replace(LOCAL, text='{"word": "Hallo"}', trace=None, pieces=()))
    with openai_client(pipeline) as client:
        response = client.responses.parse(model="auto", input="Say hello", text_format=Greeting)
    assert response.output_parsed == Greeting(word="Hallo")
    (query,) = pipeline.queries
    assert query.needs == ()
    assert '\\"word\\":' in query.sampler.grammar


def test_log_probabilities() -> None:
    with openai_client(ScriptedPipeline()) as client:
        response = client.responses.create(
            model="auto", input="Hi", include=["message.output_text.logprobs"], top_logprobs=1
        )
    (item,) = response.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert len(part.logprobs) == 4
    assert len(part.logprobs[0].top_logprobs) == 1


def test_an_answer_cut_short_is_incomplete() -> None:
    cut = replace(LOCAL, finish_reason="length")
    with openai_client(ScriptedPipeline(cut, [CONFIDENT, cut])) as client:
        response = client.responses.create(model="auto", input="Hi", max_output_tokens=4)
        events = list(
            client.responses.create(model="auto", input="Hi", max_output_tokens=4, stream=True)
        )
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM])
def test_streamed(events: Any) -> None:
    with openai_client(ScriptedPipeline(events=events)) as client:
        told = list(client.responses.create(model="auto", input="Hi", stream=True))
    assert [event.sequence_number for event in told] == list(range(len(told)))
    kinds = [event.type for event in told]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    last = told[-1]
    assert last.type == "response.completed"
    text = "Grüße!" if events is LOCAL_STREAM else "Hello there."
    assert last.response.output_text == text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == (4 if events is LOCAL_STREAM else 3)
    assert (last.response.model_extra or {})["router"]["route"] in ("local", "remote")
    assert len({event.response.id for event in told if hasattr(event, "response")}) == 1


def test_the_clients_own_accumulator_understands_the_stream() -> None:
    text = '{"word": "Hallo"}'
    answer = replace(LOCAL, text=text, trace=None, pieces=())
    pipeline = ScriptedPipeline(
        events=[CONFIDENT, TextDelta(text[:5]), TextDelta(text[5:]), answer]
    )
    with (
        openai_client(pipeline) as client,
        client.responses.stream(model="auto", input="Hi", text_format=Greeting) as stream,
    ):
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == text
    assert final.output_parsed == Greeting(word="Hallo")


REFUSED: Mapping[str, Any] = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "refusal": "I won't."},
            "finish_reason": "stop",
        }
    ],
    "id": "u",
    "created": 1,
    "model": "big",
}


def test_a_refusal_is_one() -> None:
    refused: Answer = replace(REMOTE, remote_body=REFUSED)
    stream = [
        REMOTE_STREAM[0],
        remote_chunk({"role": "assistant", "refusal": "I "}),
        remote_chunk({"refusal": "won't."}),
        remote_chunk({}, "stop"),
        replace(REMOTE, remote_body=None),
    ]
    with openai_client(ScriptedPipeline(refused, stream)) as client:
        whole = client.responses.create(model="remote", input="Hi")
        *_, last = client.responses.create(model="auto", input="Hi", stream=True)
    assert last.type == "response.completed"
    for response in (whole, last.response):
        (item,) = response.output
        assert item.type == "message"
        (part,) = item.content
        assert part.type == "refusal"
        assert part.refusal == "I won't."


def test_a_cut_stream_raises() -> None:
    events = [*REMOTE_STREAM[:3], UpstreamUnavailable("it cut")]
    with openai_client(ScriptedPipeline(events=events)) as client:
        stream = client.responses.create(model="auto", input="Hi", stream=True)
        assert next(stream).type == "response.created"
        with pytest.raises(openai.APIError, match="it cut"):
            list(stream)


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "earlier turns"),
        ({"conversation": "conv_1"}, "conversation", "earlier turns"),
        ({"background": True}, "background", "client waits"),
        ({"tools": [{"type": "web_search"}]}, "tools", "/v1/chat/completions"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions"),
        ({"store": True}, "store", "False"),
        ({"truncation": "auto"}, "truncation", "disabled"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, None, "text"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, None, "item_reference|role|message"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "Missing"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "minimal"),
        ({"extra_body": {"messages": []}}, "messages", "Unknown"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    fields: dict[str, Any], param: str | None, told: str
) -> None:
    asked: dict[str, Any] = {"model": "auto", "input": "Hi", **fields}
    with (
        openai_client(ScriptedPipeline()) as client,
        pytest.raises(openai.BadRequestError, match=told) as caught,
    ):
        client.responses.create(**asked)
    assert caught.value.param == param or param is None


def test_what_asks_for_nothing_special_is_accepted() -> None:
    pipeline = ScriptedPipeline()
    with openai_client(pipeline) as client:
        client.responses.create(
            model="auto",
            input="Hi",
            tools=[],
            tool_choice="auto",
            parallel_tool_calls=True,
            truncation="disabled",
            background=False,
            previous_response_id=None,
            reasoning={"effort": "none"},
            text={"format": {"type": "text"}, "verbosity": "medium"},
            service_tier="auto",
        )
    assert pipeline.queries[0].needs == ()
