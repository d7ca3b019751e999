"""langchain-openai against a gateway: python clients_langchain.py URL. Run by clients.sh."""

import asyncio
import sys
from typing import Literal

from clients_checks import run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

QUESTION = "What is the capital of France?"


class City(BaseModel):
    name: str = Field(max_length=20)
    capital: bool


class Weather(BaseModel):
    """The weather in a city."""

    city: Literal["Paris", "Rome"]


def chat(model: str = "local", **options: object) -> ChatOpenAI:
    settings = {"max_tokens": 20, "temperature": 0, **options}
    return ChatOpenAI(model=model, base_url=sys.argv[1], api_key="none", **settings)


def in_one_piece() -> None:
    """in one piece, with usage"""
    whole = chat().invoke(QUESTION)
    assert whole.content
    assert whole.usage_metadata["output_tokens"] > 0


def streamed() -> None:
    """streamed, with usage"""
    chunks = list(chat(stream_usage=True).stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == chat().invoke(QUESTION).content
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0


def asynchronous() -> None:
    """async, in one piece, streamed and in batches"""

    async def all_of_them() -> list[str]:
        llm = chat()
        whole = await llm.ainvoke(QUESTION)
        pieces = [str(chunk.content) async for chunk in llm.astream(QUESTION)]
        batch = await llm.abatch([QUESTION, QUESTION])
        return [whole.content, "".join(pieces), *(answer.content for answer in batch)]

    assert set(asyncio.run(all_of_them())) == {chat().invoke(QUESTION).content}


def turns() -> None:
    """several turns"""
    said = chat().invoke(QUESTION).content
    told = [("system", "Be brief."), ("human", QUESTION), ("ai", said), ("human", "Why?")]
    assert chat().invoke(told).content


def responses() -> None:
    """the Responses API, streamed too"""
    llm = chat(use_responses_api=True)
    assert "".join(chunk.text for chunk in llm.stream(QUESTION)) == llm.invoke(QUESTION).text


def structured() -> None:
    """structured output by JSON schema"""
    llm = chat(max_tokens=80).with_structured_output(City, method="json_schema")
    assert isinstance(llm.invoke("Tell me about Paris."), City)


def tools_of(model: str) -> None:
    llm = chat(model, max_tokens=60)
    parsed = llm.with_structured_output(Weather, method="function_calling")
    assert isinstance(parsed.invoke("Weather in Rome?"), Weather)

    armed = llm.bind_tools([Weather], tool_choice="required")
    asked = HumanMessage("Weather in Paris?")
    said = armed.invoke([asked])
    (call,) = said.tool_calls[:1]
    assert call["name"] == "Weather"

    first, *rest = armed.stream([asked])
    whole = sum(rest, first)
    assert whole.tool_calls[0]["args"] == call["args"]

    results = [ToolMessage("sunny", tool_call_id=each["id"]) for each in said.tool_calls]
    told = llm.bind_tools([Weather]).invoke([asked, said, *results])
    assert told.content or told.tool_calls


def remote_tools() -> None:
    """tools of the upstream: called, streamed, answered"""
    tools_of("remote")


def local_tools() -> None:
    """tools of the local model: the same"""
    tools_of("local")


if __name__ == "__main__":
    run(
        "langchain-openai",
        [
            in_one_piece,
            streamed,
            asynchronous,
            turns,
            responses,
            structured,
            remote_tools,
            local_tools,
        ],
    )
