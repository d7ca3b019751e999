"""Tool calls as local models write them, in the one format that is understood: Hermes', and Qwen's.

.. code-block:: text

    <tool_call>
    {"name": "weather", "arguments": {"city": "Paris"}}
    </tool_call>
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router.engine.messages import Completion
from router.json_grammar import grammar_text, literal
from router.json_schema import UnsupportedSchemaError, add_schema, bounded
from uq.trace import Trace

OPEN, CLOSE = "<tool_call>", "</tool_call>"

MAX_CALLS = 8
"""Calls that a forced answer may hold: enough, and it has an end."""

_SPACE = re.compile(r"\s*")
_FENCED = re.compile(r"\s*```\w*\s(.*)```\s*", re.DOTALL)


class MalformedCallError(ValueError):
    """What a model wrote begins as a call of a tool, and is none."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an answer may call.

    Attributes
    ----------
    parameters : JSON schema of the object of its arguments.
    strict : whether arguments that a grammar can't hold to the schema are useless.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str

    def __str__(self) -> str:
        name = json.dumps(self.name, ensure_ascii=False)
        return f'{OPEN}\n{{"name": {name}, "arguments": {self.arguments}}}\n{CLOSE}'


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says, and the calls that follow."""

    text: str
    calls: tuple[Call, ...] = ()


def read_calls(text: str, names: Collection[str] | None = None) -> Said:
    """Take an answer's calls out of its text.

    The last one may lack its closing tag, and one that is all of the answer both (small models
    forget them, and put it into a block of code). Raises MalformedCallError when what begins as a
    call is none, names a tool that is not in `names` (None knows all), or is not the last thing
    said.
    """
    at = text.find(OPEN)
    if at < 0:
        bare = _bare_call(text, names)
        return Said(text) if bare is None else Said("", (bare,))
    said = text[:at].strip()
    calls = []
    while at < len(text):
        if not text.startswith(OPEN, at):
            raise MalformedCallError("the answer goes on after its calls")
        call, at = _read_call(text, _skip_space(text, at + len(OPEN)))
        calls.append(_known(call, names))
        if text.startswith(CLOSE, at):
            at = _skip_space(text, at + len(CLOSE))
        elif at < len(text):
            raise MalformedCallError("a call is not closed")
    return Said(said, tuple(calls))


def with_calls(completion: Completion, names: Collection[str] | None) -> Completion:
    """Return the completion, its finish reason ``tool_calls`` where it calls tools of `names`.

    None stands for no tools. One that was given up stays as it is.
    """
    trace = completion.trace
    if names is None or trace.finish_reason not in ("stop", "length"):
        return completion
    try:
        said = read_calls(trace.text, names)
    except MalformedCallError:
        return completion
    if not said.calls:
        return completion
    called = dataclasses.replace(trace, finish_reason="tool_calls")
    return dataclasses.replace(completion, trace=called)


def is_malformed(trace: Trace, names: Collection[str] | None) -> bool:
    """Whether an answer tries to call a tool of `names` and fails; None stands for no tools."""
    if names is None:
        return False
    try:
        read_calls(trace.text, names)
    except MalformedCallError:
        return True
    return False


def calls_grammar(tools: Sequence[Tool], *, most: int = MAX_CALLS) -> str:
    """Return the grammar of one call to `most` calls, of any of these tools.

    Arguments satisfy the tool's schema; where a grammar can't hold them to it and the tool is not
    strict, they are any object. Raises SchemaError, UnsupportedSchemaError.
    """
    rules: dict[str, str] = {}
    calls = []
    end = literal("}\n" + CLOSE)
    for tool in tools:
        name = json.dumps(tool.name, ensure_ascii=False)
        head = literal(f'{OPEN}\n{{"name": {name}, "arguments": ')
        calls.append(f"{head} {_arguments(tool, rules)} {end}")
    rules["call"] = " | ".join(calls)
    return bounded(grammar_text(rf'call ("\n" call){{0,{most - 1}}}', rules))


def _arguments(tool: Tool, rules: dict[str, str]) -> str:
    schema = {"type": "object", **tool.parameters}
    grown = dict(rules)
    try:
        root = add_schema(schema, grown)
    except UnsupportedSchemaError:
        if tool.strict:
            raise
        return "object"
    rules.update(grown)
    return root


def _read_call(text: str, at: int) -> tuple[Call, int]:
    """The call whose JSON begins `at`, and where what follows it begins."""
    try:
        value, end = _JSON.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        raise MalformedCallError(f"a call is no JSON: {error}") from None
    match value:
        case {"name": str(name), "arguments": dict(arguments), **other} if not other:
            written = json.dumps(arguments, ensure_ascii=False)
            return Call(name, written), _skip_space(text, end)
    raise MalformedCallError("a call is not a name and an object of arguments")


def _bare_call(text: str, names: Collection[str] | None) -> Call | None:
    """The call that an answer without tags begins with; None when it is something else."""
    fenced = _FENCED.fullmatch(text)
    inner = text if fenced is None else fenced[1]
    try:
        call, end = _read_call(inner, _skip_space(inner, 0))
    except MalformedCallError:
        return None
    if end < len(inner):
        raise MalformedCallError("the answer goes on after its call")
    return _known(call, names)


def _known(call: Call, names: Collection[str] | None) -> Call:
    if names is not None and call.name not in names:
        raise MalformedCallError(f"there is no tool {call.name[:50]!r}")
    return call


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)
