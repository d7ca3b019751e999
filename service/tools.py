"""OpenAI's tools for the local model: what it is told of them, and its calls in OpenAI's words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from router.answer import Choice, Need
from router.engine.messages import TOOLS, Message
from router.json_schema import SchemaError, UnsupportedSchemaError
from router.tools import CLOSE, MAX_CALLS, Call, Tool, calls_grammar, read_calls
from service.errors import bad_request
from service.openai import ChatRequest

Wish = Literal["none", "auto", "required"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What the tools of a request mean for the local model.

    Attributes
    ----------
    names : of the tools that the answer may call; None where it may call none.
    declared : the message that tells the model of them.
    grammar : what makes it call one; empty where it is free to.
    stop : what ends its answer.
    needs : what it lacks for them.
    """

    names: frozenset[str] | None = None
    declared: tuple[Message, ...] = ()
    grammar: str = ""
    stop: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


NO_TOOLS = ToolUse()


def tool_use(request: ChatRequest) -> ToolUse:
    """Return what the local model has to do with the request's tools.

    Raises ApiError for tools, or a choice of them, that are malformed.
    """
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(request.tools or ())]
    wish, chosen = _choice(request.tool_choice, {tool.name for tool in tools})
    needs = tuple(_needs(request, tools, wish))
    if not tools or wish == "none":
        return replace(NO_TOOLS, needs=needs)
    if needs:
        return ToolUse(needs=needs)
    tools = [tool for tool in tools if chosen is None or tool.name in chosen]
    declared = [tool for tool in request.tools or () if tool["function"]["name"] in _names(tools)]
    use = ToolUse(
        names=_names(tools),
        declared=(Message(TOOLS, json.dumps(declared, ensure_ascii=False)),),
    )
    one = request.parallel_tool_calls is False
    if wish == "required":
        return _forced(use, tools, most=1 if one else MAX_CALLS)
    return replace(use, stop=(CLOSE,)) if one else use


def calls_as_text(said: str, calls: Sequence[Mapping[str, Any]]) -> str:
    """Return an assistant's turn as the local model would have written it."""
    parts = [said] if said else []
    for call in calls:
        function = call.get("function")
        if isinstance(function, Mapping):
            name, arguments = function.get("name"), function.get("arguments")
            parts.append(str(Call(str(name), str(arguments or "{}"))))
    return "\n".join(parts)


def call_needs(calls: Sequence[Mapping[str, Any]], where: str, local_tools: bool) -> Iterator[Need]:
    """Yield what the local model lacks to read these calls of an earlier turn."""
    if not local_tools:
        yield Need(where, "tool calls")
        return
    for i, call in enumerate(calls):
        if call.get("type", "function") != "function":
            yield Need(f"{where}[{i}]", f"calls of type '{call['type']}'")


def message_of(choice: Choice, index: int, id: str) -> dict[str, Any]:
    """Return OpenAI's message for a local answer, the calls in it as calls.

    Their ids follow from the response's `id` and the choice's `index`.
    """
    if choice.finish_reason != "tool_calls":
        return {"role": "assistant", "content": choice.text, "refusal": None}
    said = read_calls(choice.text)
    calls = [
        {
            "id": f"call_{hashlib.sha256(f'{id} {index} {i}'.encode()).hexdigest()[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(said.calls)
    ]
    content = said.text or None
    return {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}


def _forced(use: ToolUse, tools: Sequence[Tool], *, most: int) -> ToolUse:
    try:
        return replace(use, grammar=calls_grammar(tools, most=most))
    except SchemaError as error:
        raise bad_request(f"Invalid 'tools': {error}.", "tools") from None
    except UnsupportedSchemaError as error:
        return ToolUse(needs=(Need("tools", f"a JSON schema beyond grammars ({error})"),))


def _names(tools: Sequence[Tool]) -> frozenset[str]:
    return frozenset(tool.name for tool in tools)


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    """The tool that is declared; one that is no function is told by its type, without a name."""
    if tool.get("type") != "function":
        return Tool("")
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise bad_request(f"'{where}.function' must be an object.", f"{where}.function")
    name, parameters = function.get("name"), function.get("parameters") or {}
    if not isinstance(name, str) or not name:
        raise bad_request(f"'{where}.function.name' must be a text.", f"{where}.function.name")
    if not isinstance(parameters, Mapping):
        param = f"{where}.function.parameters"
        raise bad_request(f"'{param}' must be a JSON schema.", param)
    return Tool(name, parameters, strict=function.get("strict") is True)


def _needs(request: ChatRequest, tools: Sequence[Tool], wish: Wish) -> Iterator[Need]:
    """Yield what no local answer can have beside tools, or of them."""
    for i, tool in enumerate(tools):
        if not tool.name:
            kind = (request.tools or ())[i].get("type")
            yield Need(f"tools[{i}]", f"a tool of type '{str(kind)[:50]}'")
        elif tool.strict and wish == "auto":
            yield Need(f"tools[{i}].function.strict", "a strict tool that may be left uncalled")
    choice = request.tool_choice
    if isinstance(choice, Mapping) and choice.get("type") not in ("function", "allowed_tools"):
        yield Need("tool_choice", f"a tool choice of type '{str(choice.get('type'))[:50]}'")
    wants_format = request.response_format is not None and request.response_format.type != "text"
    if tools and wants_format and wish != "none":
        yield Need("response_format", "a format beside tools")


def _choice(
    choice: str | Mapping[str, Any] | None, names: set[str]
) -> tuple[Wish, frozenset[str] | None]:
    """Whether tools are to be called, and which; None for any."""
    match choice:
        case None | "auto":
            return "auto", None
        case "none" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", _known([name], names)
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]},
        }:
            return mode, _known([_allowed(tool) for tool in allowed], names)
        case {"type": str(kind)} if kind not in ("function", "allowed_tools"):
            return "auto", None
    raise bad_request(
        "Invalid 'tool_choice': expected 'none', 'auto', 'required', or an object that names a "
        "tool.",
        "tool_choice",
    )


def _allowed(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise bad_request("'tool_choice.allowed_tools.tools' must name functions.", "tool_choice")


def _known(wanted: Sequence[str], names: set[str]) -> frozenset[str]:
    for name in wanted:
        if name not in names:
            raise bad_request(f"'tool_choice' names no tool: {name[:50]!r}.", "tool_choice")
    return frozenset(wanted)
