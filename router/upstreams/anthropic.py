"""Anthropic's messages API, spoken to in OpenAI's shape.

What can't be said in it is refused (`NotExpressible`), never left out in silence. Left out are
fields that only advise (``seed``, ``user`` ...) and those of the local engine. The answers' shape
is in `router.upstreams.anthropic_answers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from router.remote_body import RemoteAnswer
from router.upstreams import anthropic_answers
from router.upstreams.dialect import ChunkReader, NotExpressible

VERSION = "2023-06-01"

MAX_TOKENS = 4096
"""Tokens of an answer where the caller sets no limit: the API wants one."""

_API = "Anthropic's API"

_COPIED = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k"}

_TRANSLATED = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice"}
    | {"parallel_tool_calls", "stream", "stream_options"}
)

_ADVICE = frozenset(
    {"router", "min_p", "repetition_penalty", "seed", "user", "safety_identifier", "metadata"}
    | {"prompt_cache_key", "store", "verbosity"}
)

_SAME: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "reasoning_effort": ("none",),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Values that ask for nothing which this API does not do anyway."""


class Anthropic:
    """See the module's docstring."""

    path = "/messages"
    hint = "; is its url the address of Anthropic's API, ending in its path such as /v1?"

    def headers(self, key: str | None) -> dict[str, str]:
        return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})

    def request(self, body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
        _refuse_what_is_missing(body)
        system, turns = _conversation(body.get("messages") or [])
        out: dict[str, Any] = {
            "model": model or body.get("model", ""),
            "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS,
            "messages": turns,
        }
        if system:
            out["system"] = system
        for name, theirs in _COPIED.items():
            if body.get(name) is not None:
                out[theirs] = body[name]
        stop = body.get("stop")
        if stop:
            out["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
        out |= _tools(body)
        return out | ({"stream": True} if stream else {})

    def answer(self, raw: bytes, content_type: str) -> RemoteAnswer:
        return anthropic_answers.parse_answer(raw, content_type)

    def error(self, body: dict[str, Any]) -> dict[str, Any]:
        return anthropic_answers.openai_error(body)

    def chunks(self) -> ChunkReader:
        return anthropic_answers.Chunks()


def _refuse_what_is_missing(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None or name in _TRANSLATED or name in _COPIED or name in _ADVICE:
            continue
        if value not in _SAME.get(name, ()):
            raise NotExpressible(name, _in_words(value), _API)
    if (body.get("temperature") or 0) > 1:
        raise NotExpressible("temperature", "a temperature above 1", _API)


def _in_words(value: object) -> str:
    return f"'{value}'" if isinstance(value, str | int | float) else "something"


def _conversation(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and the turns; neighbours of one role become one turn."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(messages):
        role, where = message.get("role"), f"messages[{i}]"
        if role in ("system", "developer"):
            system += [block["text"] for block in _blocks(message, where, _text_only)]
            continue
        turn = _ROLES.get(str(role))
        if turn is None or message.get("function_call") or message.get("audio"):
            raise NotExpressible(where, f"a message of role '{role}' of this kind", _API)
        ours, content = turn(message, where)
        if turns and turns[-1]["role"] == ours:
            turns[-1]["content"] += content
        else:
            turns.append({"role": ours, "content": content})
    return "\n\n".join(system), turns


Turn = tuple[str, list[dict[str, Any]]]


def _user(message: Mapping[str, Any], where: str) -> Turn:
    return "user", _blocks(message, where, _part)


def _assistant(message: Mapping[str, Any], where: str) -> Turn:
    blocks = _blocks(message, where, _text_only)
    for i, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        block = {"type": "tool_use", "id": call.get("id", ""), "name": function.get("name", "")}
        arguments = _arguments(function.get("arguments"), f"{where}.tool_calls[{i}]")
        blocks.append({**block, "input": arguments})
    return "assistant", blocks


def _tool(message: Mapping[str, Any], where: str) -> Turn:
    content = _blocks(message, where, _text_only)
    result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id", "")}
    return "user", [{**result, "content": content}]


_ROLES: Mapping[str, Callable[[Mapping[str, Any], str], Turn]] = {
    "user": _user,
    "assistant": _assistant,
    "tool": _tool,
}


def _blocks(
    message: Mapping[str, Any],
    where: str,
    block: Callable[[Mapping[str, Any], str], dict[str, Any]],
) -> list[dict[str, Any]]:
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    made = (block(part, f"{where}.content[{i}]") for i, part in enumerate(parts))
    return [one for one in made if one.get("text") != ""]  # the API takes no empty text


def _text_only(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part.get("type") not in ("text", "refusal"):
        raise NotExpressible(where, f"content of type '{part.get('type')}' here", _API)
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _part(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return _text_only(part, where)
    url = str((part.get("image_url") or {}).get("url", ""))
    head, comma, data = url.partition(",")
    if comma and head.startswith("data:") and head.endswith(";base64"):
        media = head.removeprefix("data:").removesuffix(";base64")
        source = {"type": "base64", "media_type": media, "data": data}
    elif url.startswith("https://"):
        source = {"type": "url", "url": url}
    else:
        raise NotExpressible(where, "an image that is neither base64 nor at an https URL", _API)
    return {"type": "image", "source": source}


def _arguments(text: Any, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, TypeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotExpressible(where, "arguments that are no JSON object", _API)
    return value


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools = list(_declared(body.get("tools") or []))
    if not tools:
        return {}
    choice = _choice(body.get("tool_choice"))
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": tools, "tool_choice": choice}


def _declared(tools: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise NotExpressible(f"tools[{i}]", f"a tool of type '{tool.get('type')}'", _API)
        declared = {
            "name": function.get("name", ""),
            "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
        }
        if function.get("description"):
            declared["description"] = function["description"]
        yield declared


_CHOICES = {"auto": "auto", "none": "none", "required": "any"}


def _choice(choice: Any) -> dict[str, Any]:
    if choice is None:
        return {"type": "auto"}
    if isinstance(choice, str) and choice in _CHOICES:
        return {"type": _CHOICES[choice]}
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "tool", "name": (choice.get("function") or {}).get("name", "")}
    raise NotExpressible("tool_choice", "a choice of this kind", _API)
