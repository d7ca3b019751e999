"""litellm against a gateway: python clients_litellm.py URL. Run by clients.sh."""

import asyncio
import json
import sys

import litellm
from clients_checks import run
from pydantic import BaseModel, Field

litellm.suppress_debug_info = True

ASK = {
    "model": "openai/local",
    "api_base": sys.argv[1],
    "api_key": "none",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 20,
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TOOLS = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60}


class City(BaseModel):
    name: str = Field(max_length=20)
    capital: bool


def whole_text() -> str:
    return litellm.completion(**ASK).choices[0].message.content


def in_one_piece() -> None:
    """in one piece, with usage"""
    answer = litellm.completion(**ASK)
    assert answer.choices[0].message.content
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 10


def streamed() -> None:
    """streamed, with usage"""
    asked = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(litellm.completion(**asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole_text()
    assert chunks[-1].usage.completion_tokens > 0


def asynchronous() -> None:
    """async, in one piece and streamed"""

    async def both() -> tuple[str, str]:
        whole = await litellm.acompletion(**ASK)
        stream = await litellm.acompletion(**ASK, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(both()) == (whole_text(), whole_text())


def structured() -> None:
    """structured output: JSON, and a pydantic model"""
    asked = {**ASK, "max_tokens": 80}
    for wanted in ({"type": "json_object"}, City):
        choice = litellm.completion(**asked, response_format=wanted).choices[0]
        if wanted is City:
            assert City.model_validate_json(choice.message.content)
        elif choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)


def several() -> None:
    """several answers"""
    assert len(litellm.completion(**ASK, n=2).choices) == 2


def tools_of(model: str) -> None:
    asked = {**ASK, **TOOLS, "model": f"openai/{model}"}
    message = litellm.completion(**asked).choices[0].message
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")

    chunks = list(litellm.completion(**asked, stream=True))
    rebuilt = litellm.stream_chunk_builder(chunks, messages=ASK["messages"])
    again = rebuilt.choices[0].message.tool_calls[0]
    assert (again.function.name, rebuilt.choices[0].finish_reason) == ("weather", "tool_calls")
    assert json.loads(again.function.arguments) == json.loads(call.function.arguments)

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    turns = [*ASK["messages"], message, result]
    told = litellm.completion(**{**asked, "messages": turns, "tool_choice": "auto"})
    assert told.choices[0].message.content or told.choices[0].message.tool_calls


def remote_tools() -> None:
    """tools of the upstream: called, streamed, answered"""
    tools_of("remote")


def local_tools() -> None:
    """tools of the local model: the same"""
    tools_of("local")


def errors() -> None:
    """errors as its own"""
    told = ""
    try:
        litellm.completion(**{**ASK, "model": "openai/gpt-6"})
    except litellm.NotFoundError as error:
        told = str(error)
    assert "gpt-6" in told


if __name__ == "__main__":
    run(
        "litellm",
        [
            in_one_piece,
            streamed,
            asynchronous,
            structured,
            several,
            remote_tools,
            local_tools,
            errors,
        ],
    )
