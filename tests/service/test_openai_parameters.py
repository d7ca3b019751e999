"""Every parameter that the `openai` package knows: it works, goes to the upstream, or is refused.

The lists are checked against the package's own signatures and against the tables in docs/api.md, so
none is forgotten when the package learns a new one.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.resources.chat import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.resources.responses import Responses

from tests.service.scripted import REMOTE, ScriptedPipeline, openai_client

HERE, UPSTREAM, REFUSED = "here", "upstream", "refused"

TRANSPORT = {"extra_headers", "extra_query", "extra_body", "timeout"}
"""What the package keeps to itself."""

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}

Parameters = dict[str, tuple[str, dict[str, Any]]]


def here(**fields: Any) -> tuple[str, dict[str, Any]]:
    return HERE, fields


def upstream(**fields: Any) -> tuple[str, dict[str, Any]]:
    return UPSTREAM, fields


def refused(**fields: Any) -> tuple[str, dict[str, Any]]:
    return REFUSED, fields


CHAT: Parameters = {
    "messages": here(),
    "model": here(),
    "audio": upstream(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
    "frequency_penalty": here(frequency_penalty=0.5),
    "function_call": upstream(functions=[FUNCTION], function_call="auto"),
    "functions": upstream(functions=[FUNCTION]),
    "logit_bias": here(logit_bias={"7": -100}),
    "logprobs": here(logprobs=True),
    "max_completion_tokens": here(max_completion_tokens=5),
    "max_tokens": here(max_tokens=5),
    "metadata": here(metadata={"k": "v"}),
    "modalities": upstream(modalities=["text", "audio"]),
    "moderation": upstream(moderation={"model": "omni-moderation-latest"}),
    "n": here(n=2),
    "parallel_tool_calls": upstream(tools=[TOOL], parallel_tool_calls=False),
    "prediction": upstream(prediction={"type": "content", "content": "x"}),
    "presence_penalty": here(presence_penalty=0.5),
    "prompt_cache_key": here(prompt_cache_key="k"),
    "prompt_cache_options": here(prompt_cache_options={"mode": "implicit"}),
    "prompt_cache_retention": here(prompt_cache_retention="24h"),
    "reasoning_effort": upstream(reasoning_effort="low"),
    "response_format": here(response_format={"type": "json_object"}),
    "safety_identifier": here(safety_identifier="s"),
    "seed": here(seed=-1, temperature=1),
    "service_tier": upstream(service_tier="flex"),
    "stop": here(stop=["\n"]),
    "store": refused(store=True),
    "stream": here(stream=True),
    "stream_options": here(stream=True, stream_options={"include_usage": True}),
    "temperature": here(temperature=0.5),
    "tool_choice": upstream(tools=[TOOL], tool_choice="auto"),
    "tools": upstream(tools=[TOOL]),
    "top_logprobs": here(logprobs=True, top_logprobs=2),
    "top_p": here(temperature=1, top_p=0.5),
    "user": here(user="u"),
    "verbosity": upstream(verbosity="low"),
    "web_search_options": upstream(web_search_options={}),
}

COMPLETIONS: Parameters = {
    "model": here(),
    "prompt": here(prompt=["Hi"]),
    "best_of": refused(best_of=3),
    "echo": refused(echo=True),
    "frequency_penalty": here(frequency_penalty=0.5),
    "logit_bias": here(logit_bias={"7": -100}),
    "logprobs": here(logprobs=2),
    "max_tokens": here(max_tokens=5),
    "n": here(n=2),
    "presence_penalty": here(presence_penalty=0.5),
    "seed": here(seed=1),
    "stop": here(stop="\n"),
    "stream": here(stream=True),
    "stream_options": here(stream=True, stream_options={"include_usage": True}),
    "suffix": refused(suffix="x"),
    "temperature": here(temperature=0.5),
    "top_p": here(top_p=0.5),
    "user": here(user="u"),
}

RESPONSES: Parameters = {
    "input": here(),
    "model": here(),
    "access_programs": refused(access_programs={"cyber": "standard"}),
    "background": refused(background=True),
    "background_options": refused(background_options={"x": 1}),
    "context_management": refused(context_management=[{"type": "compaction"}]),
    "conversation": refused(conversation="conv_1"),
    "image": refused(image={"context_compression": "enabled"}),
    "include": here(include=["message.output_text.logprobs"]),
    "instructions": here(instructions="Be brief."),
    "max_output_tokens": here(max_output_tokens=20),
    "max_tool_calls": refused(max_tool_calls=1),
    "metadata": here(metadata={"k": "v"}),
    "moderation": refused(moderation={"model": "omni-moderation-latest"}),
    "parallel_tool_calls": here(parallel_tool_calls=True),
    "previous_response_id": refused(previous_response_id="resp_1"),
    "prompt": refused(prompt={"id": "p"}),
    "prompt_cache_key": here(prompt_cache_key="k"),
    "prompt_cache_options": here(prompt_cache_options={"mode": "implicit"}),
    "prompt_cache_retention": here(prompt_cache_retention="24h"),
    "reasoning": upstream(reasoning={"effort": "low"}),
    "safety_identifier": here(safety_identifier="s"),
    "service_tier": upstream(service_tier="flex"),
    "store": refused(store=True),
    "stream": here(stream=True),
    "stream_options": here(stream=True, stream_options={"include_obfuscation": False}),
    "temperature": here(temperature=0.5),
    "text": here(text={"format": {"type": "json_object"}}),
    "tool_choice": here(tool_choice="auto"),
    "tools": refused(tools=[{"type": "web_search"}]),
    "top_logprobs": here(top_logprobs=2),
    "top_p": here(top_p=0.5),
    "truncation": here(truncation="disabled"),
    "user": here(user="u"),
}


def signature(create: Any) -> set[str]:
    return set(inspect.signature(create).parameters) - {"self"} - TRANSPORT


@pytest.mark.parametrize(
    ("listed", "create"),
    [
        (CHAT, ChatCompletions.create),
        (COMPLETIONS, Completions.create),
        (RESPONSES, Responses.create),
    ],
)
def test_none_is_forgotten(listed: Parameters, create: Any) -> None:
    assert set(listed) == signature(create)


ALL = [
    (endpoint, name, said)
    for endpoint, listed in (
        ("chat", CHAT),
        ("completions", COMPLETIONS),
        ("responses", RESPONSES),
    )
    for name, said in listed.items()
]


@pytest.fixture(scope="module")
def pipeline() -> ScriptedPipeline:
    return ScriptedPipeline(REMOTE)


@pytest.fixture(scope="module")
def client(pipeline: ScriptedPipeline) -> Any:
    with openai_client(pipeline, cache_size=0) as client:
        yield client


@pytest.mark.parametrize(("endpoint", "name", "said"), ALL)
def test_each_does_what_is_said_of_it(
    client: openai.OpenAI,
    pipeline: ScriptedPipeline,
    endpoint: str,
    name: str,
    said: tuple[str, dict[str, Any]],
) -> None:
    outcome, fields = said
    creates: dict[str, tuple[Any, dict[str, Any]]] = {
        "chat": (client.chat.completions.create, {"messages": MESSAGES}),
        "completions": (client.completions.create, {"prompt": "Hi"}),
        "responses": (client.responses.create, {"input": "Hi"}),
    }
    create, given = creates[endpoint]
    pipeline.queries.clear()
    if outcome == REFUSED:
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="auto", **{**given, **fields})
        assert caught.value.param == name
        return
    answer = create(model="auto", **{**given, **fields})
    if fields.get("stream"):
        assert list(answer)
    (query,) = pipeline.queries
    assert bool(query.needs) == (outcome == UPSTREAM)


@pytest.mark.parametrize(
    ("heading", "listed"), [("Chat", CHAT), ("Completions", COMPLETIONS), ("Responses", RESPONSES)]
)
def test_the_documentation_says_the_same(heading: str, listed: Parameters) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    section = text.split(f"### {heading} parameters\n", 1)[1].split("\n#", 1)[0]
    told = {}
    for line in section.splitlines():
        if not line.startswith("| `"):
            continue
        names, what = line.strip("|").split("|")[:2]
        for name in re.findall(r"`([a-z_]+)`", names):
            told[name] = what.strip()
    assert told == {name: outcome for name, (outcome, _) in listed.items()}
