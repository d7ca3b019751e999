"""OpenAI's API with the real model behind it, asked by the unmodified `openai` package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from tests.e2e.conftest import Gateway


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0)
    mood: Literal["glad", "sad"] | None


ASK = "Describe Ann, who is 34 years old and glad, as JSON."
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": ASK}]


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["local", "remote"])
def test_a_parsed_answer_is_what_was_asked_for(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Person, max_tokens=150
    )
    assert isinstance(answer.choices[0].message.parsed, Person)
    router = (answer.model_extra or {})["router"]
    assert router["route"] == model
    if model == "local":
        assert not router["calibrated_sampler"]


def test_a_parsed_answer_may_be_streamed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="local", messages=MESSAGES, response_format=Person, max_tokens=150, seed=1
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Person)


async def test_the_asynchronous_client(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(
        base_url=gateway.url + "/v1", api_key="none", max_retries=0
    ) as client:
        answer = await client.chat.completions.parse(
            model="local", messages=MESSAGES, response_format=Person, max_tokens=150, n=2, seed=5
        )
        stream = await client.responses.create(
            model="local", input="Say hello.", max_output_tokens=8, stream=True
        )
        kinds = [event.type async for event in stream]
    assert all(isinstance(choice.message.parsed, Person) for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 20
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_several_answers_differ_and_come_again_with_their_seed(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model="local",
            messages=[{"role": "user", "content": "Tell me something about the sea."}],
            n=3,
            seed=seed,
            max_tokens=16,
            extra_headers={"Cache-Control": "no-store"},
        )
        return [choice.message.content for choice in answer.choices]

    first = texts(1)
    assert len(set(first)) == 3
    assert texts(1) == first


def test_all_endpoints_answer_the_same(client: openai.OpenAI) -> None:
    question = "What is the capital of France?"
    chat = client.chat.completions.create(
        model="local", messages=[{"role": "user", "content": question}], max_tokens=12
    )
    response = client.responses.create(model="local", input=question, max_output_tokens=12)
    completion = client.completions.create(model="local", prompt=question, max_tokens=12)
    assert chat.choices[0].message.content
    assert response.output_text == chat.choices[0].message.content
    assert completion.choices[0].text == chat.choices[0].message.content
    streamed = client.completions.create(model="local", prompt=question, max_tokens=12, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == completion.choices[0].text


def test_a_schema_beyond_grammars_goes_to_the_upstream(client: openai.OpenAI) -> None:
    schema: dict[str, object] = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "x+"}},
    }
    with pytest.raises(openai.BadRequestError, match="pattern"):
        # The upstream is a gateway without an upstream of its own, and says the same.
        client.chat.completions.create(
            model="auto",
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )
