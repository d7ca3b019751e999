"""The legacy endpoint for prompts, driven by the unmodified `openai` package."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from router.engine.messages import Message
from router.errors import UpstreamUnavailable
from tests.service.scripted import (
    CONFIDENT,
    LOCAL_STREAM,
    REMOTE,
    REMOTE_STREAM,
    TWO,
    ScriptedPipeline,
    openai_client,
)


def test_in_one_piece() -> None:
    pipeline = ScriptedPipeline()
    with openai_client(pipeline) as client:
        answer = client.completions.create(model="auto", prompt="Say hello", logprobs=1, seed=3)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert choice.text == "Grüße!"
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == [-0.1, -0.5, -1.5, -9999.0]
    assert choice.logprobs.text_offset == [0, 2, 3, 3]
    assert choice.logprobs.top_logprobs is not None
    assert len(choice.logprobs.top_logprobs) == 4
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11
    assert answer.model_extra is not None
    assert answer.model_extra["router"]["route"] == "local"
    (query,) = pipeline.queries
    assert query.messages == (Message("user", "Say hello"),)
    assert query.max_tokens == 16
    assert query.body["messages"] == [{"role": "user", "content": "Say hello"}]
    assert "prompt" not in query.body


def test_of_the_upstream() -> None:
    with openai_client(ScriptedPipeline(REMOTE)) as client:
        answer = client.completions.create(model="auto", prompt=["Say hello"])
    assert answer.choices[0].text == "Hello there."
    assert answer.model == "big-model"


@pytest.mark.parametrize("events", [LOCAL_STREAM, REMOTE_STREAM])
@pytest.mark.parametrize("usage", [True, False])
def test_streamed(events: Any, usage: bool) -> None:
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    with openai_client(ScriptedPipeline(events=events)) as client:
        chunks = list(client.completions.create(model="auto", prompt="Hi", stream=True, **options))
    with_choices = chunks[:-1] if usage else chunks
    text = "".join(chunk.choices[0].text for chunk in with_choices)
    assert text == ("Grüße!" if events is LOCAL_STREAM else "Hello there.")
    assert with_choices[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert (chunks[-1].usage is not None) == usage
    assert "router" in (chunks[-1].model_extra or {})


def test_streamed_log_probabilities_go_on_where_they_were() -> None:
    with openai_client(ScriptedPipeline()) as client:
        chunks = list(client.completions.create(model="auto", prompt="Hi", stream=True, logprobs=0))
    offsets = [
        offset
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for offset in chunk.choices[0].logprobs.text_offset or ()
    ]
    assert offsets == [0, 2, 3, 3]


def test_several_choices() -> None:
    with openai_client(ScriptedPipeline(TWO, [CONFIDENT, TWO])) as client:
        answer = client.completions.create(model="auto", prompt="Hi", n=2, best_of=2)
        assert [choice.text for choice in answer.choices] == ["Grüße!", "Hallo!"]
        chunks = list(client.completions.create(model="auto", prompt="Hi", n=2, stream=True))
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "Grüße!", 1: "Hallo!"}


def test_a_cut_stream_raises() -> None:
    events = [*REMOTE_STREAM[:3], UpstreamUnavailable("it cut")]
    with openai_client(ScriptedPipeline(events=events)) as client:
        stream = client.completions.create(model="auto", prompt="Hi", stream=True)
        with pytest.raises(openai.APIError, match="it cut"):
            list(stream)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"grammar": "x"}}, "grammar"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    asked: dict[str, Any] = {"model": "auto", "prompt": "Hi", **fields}
    with (
        openai_client(ScriptedPipeline()) as client,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        client.completions.create(**asked)
    assert caught.value.param == param


def test_what_changes_nothing_is_accepted() -> None:
    with openai_client(ScriptedPipeline()) as client:
        client.completions.create(
            model="auto", prompt="Hi", echo=False, suffix="", best_of=1, user="u", stop=["\n"]
        )
