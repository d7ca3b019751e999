"""What is said to an upstream and what it says back, without the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from router.answer import Usage

_LOCAL_ONLY = frozenset({"router", "top_k", "min_p", "repetition_penalty"})
LONGEST_WAIT = 86_400.0
"""Seconds that ``Retry-After`` can mean at most."""

_EXCERPT = 300
_READ = 1 << 16


@dataclass(frozen=True, slots=True)
class RemoteAnswer:
    """A complete answer of the upstream.

    `body` is its response object in OpenAI's shape; `text` the first choice's content (empty when
    it holds tool calls instead); `usage` is zero where the upstream reports none. `upstream` is the
    name of who answered, `cost_usd` what that costs; None when its prices are not set.
    """

    body: Mapping[str, Any]
    text: str
    finish_reason: str
    usage: Usage
    upstream: str = ""
    cost_usd: float | None = None


class BadBodyError(ValueError):
    """A body is not what OpenAI's API says it is.

    `what` completes "the upstream ..."; `body` is the culprit, which may hold secrets.
    """

    def __init__(self, what: str, body: str | bytes) -> None:
        super().__init__(what)
        self.what = what
        self.body = body if isinstance(body, str) else body[:_READ].decode(errors="replace")


def request_body(body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
    """Return what to send for a caller's request: `model` set, the local engine's extras left out.

    A stream always asks for usage; see `is_usage_chunk` for what follows from that.
    """
    out = {name: value for name, value in body.items() if name not in _LOCAL_ONLY}
    options = out.pop("stream_options", None)
    out.pop("stream", None)
    if model:
        out["model"] = model
    if stream:
        kept = options if isinstance(options, Mapping) else {}
        out |= {"stream": True, "stream_options": {**kept, "include_usage": True}}
    return out


def parse_answer(raw: bytes, content_type: str) -> RemoteAnswer:
    """Read a chat completion. Raises BadBodyError when `raw` is something else."""
    body = parse_object(raw, content_type)
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        raise BadBodyError("sent no chat completion", raw)
    content = message.get("content")
    return RemoteAnswer(
        body=body,
        text=content if isinstance(content, str) else "",
        finish_reason=str(first.get("finish_reason") or "stop"),
        usage=usage_of(body) or Usage(),
    )


def parse_object(raw: bytes, content_type: str) -> dict[str, Any]:
    """Read a JSON object that reports no error. Raises BadBodyError otherwise."""
    body = json_object(raw)
    if body is None:
        kind = content_type or "no content type"
        raise BadBodyError(f"sent no JSON object ({kind})", raw)
    if body.get("error"):  # some gateways report errors with status 200
        raise BadBodyError("reports an error", raw)
    return body


def parse_chunk(data: str) -> dict[str, Any]:
    """Read one chunk of a stream. Raises BadBodyError when it is none, or reports an error."""
    chunk = json_object(data)
    if chunk is None:
        raise BadBodyError("sent a chunk that is no JSON object", data)
    if chunk.get("error"):
        raise BadBodyError("broke off with an error", data)
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(_is_choice(choice) for choice in choices):
        raise BadBodyError("sent a chunk that is no chat completion", data)
    return chunk


class Completeness:
    """Follows a stream's chunks and tells whether every choice that began has finished."""

    def __init__(self) -> None:
        self._began = False
        self._open: set[int] = set()

    def add(self, chunk: Mapping[str, Any]) -> None:
        for choice in chunk.get("choices") or ():
            self._began = True
            finished = choice.get("finish_reason") is not None
            (self._open.discard if finished else self._open.add)(choice.get("index", 0))

    def __bool__(self) -> bool:
        return self._began and not self._open


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """Return the token counts in a response object or a chunk; None when there are none."""
    usage = body.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, completion = (n if isinstance(n, int) and n > 0 else 0 for n in counts)
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def is_usage_chunk(chunk: Mapping[str, Any]) -> bool:
    """Whether a stream's chunk carries usage and no text: what a caller sees only if it asked."""
    return not chunk.get("choices") and usage_of(chunk) is not None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, in either of its forms; None without it.

    A date is read by the clock of the server that wrote it where its ``Date`` tells that one: it
    may be wrong, as ours may. What is beyond `LONGEST_WAIT` counts as that.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return min(float(value), LONGEST_WAIT)
    moment = _moment(value)
    if moment is None:
        return None
    now = _moment(headers.get("date", "")) or datetime.now(UTC)
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_WAIT)


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None when `text` is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def excerpt(text: str) -> str:
    """The beginning of `text` on one line, to end a message with; nothing for an empty text."""
    line = " ".join(text[:_READ].split())
    short = line if len(line) <= _EXCERPT else line[:_EXCERPT] + "…"
    return f": {short}" if short else ""


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("index", 0), int)
