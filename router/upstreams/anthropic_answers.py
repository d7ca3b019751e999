"""Answers of Anthropic's messages API, in OpenAI's shape."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from router import remote_body
from router.answer import Usage
from router.remote_body import BadBodyError, RemoteAnswer

_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def parse_answer(raw: bytes, content_type: str) -> RemoteAnswer:
    """Read a message. Raises BadBodyError when `raw` is something else."""
    body = remote_body.parse_object(raw, content_type)
    content = body.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise BadBodyError("sent no message", raw)
    text = "".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
    calls = [_call(block) for block in content if block.get("type") == "tool_use"]
    finish = _finish(body.get("stop_reason"))
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if calls:
        message["tool_calls"] = calls
    usage = _usage(body)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    whole = _head(body, "chat.completion") | {"choices": [choice], "usage": _counts(usage)}
    return RemoteAnswer(body=whole, text=text, finish_reason=finish, usage=usage)


def openai_error(body: Mapping[str, Any]) -> dict[str, Any]:
    """An error's body as OpenAI gives it."""
    error = body.get("error")
    known = error if isinstance(error, Mapping) else {}
    return {
        "error": {
            "message": str(known.get("message", "the upstream gives no reason")),
            "type": str(known.get("type", "invalid_request_error")),
            "param": None,
            "code": None,
        }
    }


class Chunks:
    """The events of one stream -> chunks."""

    def __init__(self) -> None:
        self.ended = False
        self._head: dict[str, Any] = {}
        self._usage = Usage()
        self._calls: dict[int, int] = {}
        """Index of a content block -> number of the tool call that it holds."""

    @property
    def complete(self) -> bool:
        return self.ended

    def read(self, data: str) -> Iterable[dict[str, Any]]:
        event = remote_body.json_object(data)
        if event is None:
            raise BadBodyError("sent an event that is no JSON object", data)
        if event.get("type") == "error":
            raise BadBodyError("broke off with an error", data)
        try:
            yield from self._chunks(event)
        except (KeyError, TypeError, AttributeError):
            raise BadBodyError("sent an event that is none of Anthropic's", data) from None

    def _chunks(self, event: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        match event.get("type"):
            case "message_start":
                self._head = _head(event["message"], "chat.completion.chunk")
                self._usage = _usage(event["message"])
                yield self._chunk({"role": "assistant", "content": ""})
            case "content_block_start":
                yield from self._begin(event["index"], event["content_block"])
            case "content_block_delta":
                yield from self._add(event["index"], event["delta"])
            case "message_delta":
                self._usage = _usage(event, self._usage)
                if event["delta"].get("stop_reason") is not None:
                    yield self._chunk({}, _finish(event["delta"]["stop_reason"]))
            case "message_stop":
                self.ended = True
                yield self._head | {"choices": [], "usage": _counts(self._usage)}

    def _begin(self, index: int, block: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        if block["type"] == "tool_use":
            number = self._calls[index] = len(self._calls)
            call = _call(block)
            call["function"]["arguments"] = ""
            yield self._chunk({"tool_calls": [{"index": number, **call}]})
        elif block["type"] == "text" and block.get("text"):
            yield self._chunk({"content": block["text"]})

    def _add(self, index: int, delta: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
        if delta["type"] == "text_delta":
            yield self._chunk({"content": delta["text"]})
        elif delta["type"] == "input_json_delta":
            part = {"index": self._calls[index], "function": {"arguments": delta["partial_json"]}}
            yield self._chunk({"tool_calls": [part]})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head | {"choices": [choice]}


def _head(message: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": str(message.get("id", "")),
        "object": kind,
        "created": int(time.time()),
        "model": str(message.get("model", "")),
    }


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    return {
        "id": str(block.get("id", "")),
        "type": "function",
        "function": {"name": str(block.get("name", "")), "arguments": arguments},
    }


def _finish(reason: object) -> str:
    return _FINISHES.get(str(reason), "stop")


_READ = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def _usage(body: Mapping[str, Any], before: Usage | None = None) -> Usage:
    """The tokens counted; what `body` leaves out is as it was `before`."""
    usage = body.get("usage")
    told = usage if isinstance(usage, Mapping) else {}
    old = before or Usage()
    read = sum(_count(told.get(name)) for name in _READ)
    written = _count(told.get("output_tokens"))
    return Usage(read or old.prompt_tokens, written or old.completion_tokens)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _counts(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
