"""An upstream's stream, put together to the object that it would have sent in one piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHARED = ("id", "created", "model", "system_fingerprint", "service_tier")


def assemble(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the `chat.completion` that all `chat.completion.chunk` of a stream amount to."""
    body: dict[str, Any] = {"object": "chat.completion"}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for name in _SHARED:
            if chunk.get(name) is not None:
                body.setdefault(name, chunk[name])
        if chunk.get("usage") is not None:
            body["usage"] = chunk["usage"]
        for part in chunk.get("choices") or ():
            _add(choices.setdefault(part.get("index", 0), {}), part)
    return body | {"choices": [_choice(index, choices[index]) for index in sorted(choices)]}


def _add(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    delta = dict(part.get("delta") or {})
    calls = choice.setdefault("calls", {})
    for call in delta.pop("tool_calls", None) or ():
        _merge(calls.setdefault(call.get("index", 0), {}), call)
    _merge(choice.setdefault("message", {}), delta)
    if part.get("logprobs") is not None:
        _merge(choice.setdefault("logprobs", {}), part["logprobs"])
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


_WHOLE = frozenset({"role", "id", "type", "index"})
"""Strings that are sent once, or repeated, but never in pieces."""


def _merge(target: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add `piece` to `target`: strings and lists grow, objects merge, the rest is replaced."""
    for name, value in piece.items():
        old = target.get(name)
        if value is None and old is not None:
            continue
        if isinstance(value, Mapping):
            nested = dict(old) if isinstance(old, Mapping) else {}
            _merge(nested, value)
            target[name] = nested
        elif isinstance(value, list) and isinstance(old, list):
            target[name] = [*old, *value]
        elif isinstance(value, str) and isinstance(old, str) and name not in _WHOLE:
            target[name] = old + value
        else:
            target[name] = value


def _choice(index: int, choice: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, **choice["message"]}
    calls = choice["calls"]
    if calls:
        message["tool_calls"] = [
            {name: value for name, value in calls[i].items() if name != "index"}
            for i in sorted(calls)
        ]
    return {
        "index": index,
        "message": message,
        "logprobs": choice.get("logprobs"),
        "finish_reason": choice.get("finish_reason", "stop"),
    }
