"""Tools that the real local model calls, asked by the unmodified `openai` package.

The embedded model was not trained to call any: it is told how by a template of ours, and made to by
a grammar.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests import tool_template
from tests.e2e.conftest import Gateway


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    days: Literal[1, 2, 3]


TOOL = openai.pydantic_function_tool(Weather, name="weather", description="The weather in a city")
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What will the weather be in Rome tomorrow?"}
]
ASK: dict[str, Any] = {
    "model": "local",
    "messages": MESSAGES,
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "max_tokens": 80,
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("tools")
    template = folder / "template.jinja"
    template.write_text(tool_template.SOURCE)
    options = {
        "context": "1024",
        "slots": "2",
        "local-tools": "on",
        "chat-template": str(template),
    }
    gateway = Gateway(options, folder / "log")
    gateway.start()
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client
    gateway.stop()
    assert "Traceback" not in gateway.log.read_text()


def test_a_forced_call_has_the_arguments_that_its_schema_asks_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**ASK)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 10
    router = (answer.model_extra or {})["router"]
    assert router["route"] == "local"
    assert router["calibration"] is None  # the shipped one was made with the model's own template
    assert not router["calibrated_sampler"]
    assert router["uncertainty"]["perplexity"] is not None

    with client.chat.completions.stream(**ASK) as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls is not None
    (again,) = streamed.message.tool_calls
    assert again.function.parsed_arguments == call.function.parsed_arguments


def test_the_result_of_a_call_is_answered_in_text(client: openai.OpenAI) -> None:
    call = client.chat.completions.create(**ASK).choices[0].message.tool_calls
    assert call
    turns: list[Any] = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call[0].model_dump()]},
        {"role": "tool", "tool_call_id": call[0].id, "content": "It will be sunny in Rome."},
    ]
    answer = client.chat.completions.create(**{**ASK, "messages": turns, "tool_choice": "none"})
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_where_it_is_free_to_call_it_may_answer_in_text(client: openai.OpenAI) -> None:
    loose = {"type": "function", "function": {**TOOL["function"], "strict": False}}
    free = {**ASK, "tools": [loose], "tool_choice": "auto", "max_tokens": 30}
    answer = client.chat.completions.create(**free).choices[0]
    with client.chat.completions.create(**free, stream=True) as stream:
        deltas = [chunk.choices[0].delta for chunk in stream]
    assert "".join(delta.content or "" for delta in deltas) == (answer.message.content or "")
    assert answer.message.content or answer.message.tool_calls


def test_what_it_can_not_do_without_an_upstream_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="strict"):
        client.chat.completions.create(**{**ASK, "tool_choice": "auto"})
