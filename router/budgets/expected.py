"""What a call is expected to take, before it is made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from router.answer import Usage

BYTES_PER_TOKEN = 4.0
"""Of text, about what tokenizers of large models make of English."""

TOKENS_PER_MEDIA = 1000
"""Of an image, a sound or a file."""

FIRST_ANSWER = 300
"""Tokens of an answer, before one was seen."""

_INERTIA = 0.95


class Expected:
    """Guesses the tokens of a call from its request and from the answers before."""

    def __init__(self) -> None:
        self._answer = float(FIRST_ANSWER)

    def usage(self, body: Mapping[str, Any]) -> Usage:
        """Return what the OpenAI request `body` is expected to take: a guess, not a bound."""
        n = body.get("n")
        answers = n if isinstance(n, int) and n > 0 else 1
        return Usage(_prompt_tokens(body), round(min(self._answer, _most(body)) * answers))

    def learn(self, usage: Usage) -> None:
        """Take in what a call took."""
        self._answer = _INERTIA * self._answer + (1.0 - _INERTIA) * usage.completion_tokens


def _most(body: Mapping[str, Any]) -> float:
    limits = (body.get("max_completion_tokens"), body.get("max_tokens"))
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=1e9)


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    media = 0
    n_bytes = 0
    for part in _parts(body):
        if isinstance(part, Mapping) and part.get("type") not in (None, "text", "refusal"):
            media += 1
        else:
            text = part if isinstance(part, str) else json.dumps(part, default=str)
            n_bytes += len(text.encode("utf-8", "replace"))
    return round(n_bytes / BYTES_PER_TOKEN) + media * TOKENS_PER_MEDIA + 1


def _parts(body: Mapping[str, Any]) -> Iterator[Any]:
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, Mapping) else message
        yield from content if isinstance(content, list) else (content or "",)
    for name in ("tools", "functions", "response_format"):
        if body.get(name):
            yield json.dumps(body[name], default=str)
