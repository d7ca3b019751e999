"""A chat completion, or chunks of one, as an answer of ``/v1/responses``.

A stream is a row of typed, numbered events. It ends with ``response.completed`` or
``response.incomplete``; one that is cut ends with an ``error`` event and neither of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from router.errors import RouterError
from service.errors import ApiError
from service.gateway import Served, StreamItem
from service.responses import ResponsesRequest
from service.sse import ChunkWriter, error_body
from service.strict_json import dumps

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Reasons to finish that leave an answer incomplete, as this API calls them."""


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """``/v1/responses``."""

    request: ResponsesRequest
    include_usage: bool = True

    def new_id(self) -> str:
        return f"resp_{token_hex(16)}"

    def whole(self, completion: dict[str, Any]) -> Mapping[str, Any]:
        answer = _Answer(self.request, completion)
        for choice in completion.get("choices", ())[:1]:
            answer.take(choice, choice.get("message") or {})
        answer.finish(completion)
        return answer.response()

    async def events(
        self, items: AsyncIterator[StreamItem], writer: ChunkWriter, log: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        events = _Events(self.request)
        try:
            async for item in items:
                for chunk in writer.chunks(item):
                    for event in events.of(chunk):
                        yield _sse(event)
                if isinstance(item, Served):
                    return
        except (RouterError, ApiError) as exc:
            log["cut"] = type(exc).__name__
            yield _sse(events.cut(error_body(exc)))


@dataclass(slots=True)
class _Answer:
    """What is known of an answer so far. `source` has the fields that all its chunks share."""

    request: ResponsesRequest
    source: Mapping[str, Any]
    item_id: str = field(default_factory=lambda: f"msg_{token_hex(16)}")
    text: str = ""
    is_refusal: bool = False
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    last: Mapping[str, Any] | None = None
    """What tells the usage and the `router` object, when the answer is whole."""

    def take(self, choice: Mapping[str, Any], said: Mapping[str, Any]) -> str:
        """Take in a message or a piece of one; return the text that it adds."""
        text = said.get("content") or ""
        if said.get("refusal") and not self.text and not text:
            self.is_refusal = True
        text = text or said.get("refusal") or ""
        self.text += text
        self.logprobs += (choice.get("logprobs") or {}).get("content") or []
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        return text

    def finish(self, last: Mapping[str, Any]) -> None:
        self.last = last

    @property
    def status(self) -> str:
        if self.last is None:
            return "in_progress"
        return "incomplete" if self.finish_reason in _INCOMPLETE else "completed"

    def part(self) -> dict[str, Any]:
        """The answer's only content."""
        if self.is_refusal:
            return {"type": "refusal", "refusal": self.text}
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs,
        }

    def item(self, *, begun: bool = True) -> dict[str, Any]:
        """The answer as the message that it is."""
        return {
            "id": self.item_id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": [self.part()] if begun else [],
        }

    def response(self) -> dict[str, Any]:
        """The response object; its output comes with its end."""
        request, status = self.request, self.status
        told = request.model_dump(
            mode="json", by_alias=True, include={"text", "reasoning", "metadata"}
        )
        text = told["text"] or {}
        whole: dict[str, Any] = {
            "id": self.source.get("id"),
            "object": "response",
            "created_at": self.source.get("created"),
            "status": status,
            "error": None,
            "incomplete_details": (
                {"reason": _INCOMPLETE[self.finish_reason or ""]}
                if status == "incomplete"
                else None
            ),
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": told["metadata"] or {},
            "model": self.source.get("model"),
            "output": [] if self.last is None else [self.item()],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": told["reasoning"] or {"effort": None, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": {
                "format": _without_null(text.get("format")) or {"type": "text"},
                **({"verbosity": text["verbosity"]} if text.get("verbosity") else {}),
            },
            "tool_choice": "none",
            "tools": [],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None if self.last is None else _usage(self.last.get("usage")),
            "user": request.user,
        }
        if self.last is not None:
            whole["router"] = self.last.get("router")
        return whole


class _Events:
    """Turns the chunks of one answer into events."""

    def __init__(self, request: ResponsesRequest) -> None:
        self._request = request
        self._answer: _Answer | None = None
        self._part_begun = False
        self._number = 0

    def of(self, chunk: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events that `chunk` amounts to; the one that has `router` is the last."""
        if self._answer is None:
            self._answer = _Answer(self._request, chunk)
            for name in ("response.created", "response.in_progress"):
                yield self._event(name, response=self._answer.response())
            item = self._answer.item(begun=False)
            yield self._event("response.output_item.added", output_index=0, item=item)
        answer = self._answer
        for choice in chunk["choices"][:1]:
            text = answer.take(choice, choice.get("delta") or {})
            if text:
                yield from self._begin_part(answer)
                added = (choice.get("logprobs") or {}).get("content") or []
                more = {} if answer.is_refusal else {"logprobs": added}
                yield self._in_part(answer, "delta", delta=text, **more)
        if "router" in chunk:
            yield from self._begin_part(answer)
            yield from self._end(answer, chunk)

    def cut(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the event of a stream that breaks off."""
        error = body.get("error") or {}
        told = {name: error.get(name) for name in ("code", "message", "param")}
        # Clients look for either form.
        return self._event("error", **told, error=error)

    def _begin_part(self, answer: _Answer) -> Iterator[dict[str, Any]]:
        if not self._part_begun:
            self._part_begun = True
            empty = {"refusal": ""} if answer.is_refusal else {"text": "", "logprobs": []}
            part = {**answer.part(), **empty}
            yield self._in_item(answer, "response.content_part.added", part=part)

    def _end(self, answer: _Answer, last: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        answer.finish(last)
        if answer.is_refusal:
            yield self._in_part(answer, "done", refusal=answer.text)
        else:
            yield self._in_part(answer, "done", text=answer.text, logprobs=answer.logprobs)
        yield self._in_item(answer, "response.content_part.done", part=answer.part())
        yield self._event("response.output_item.done", output_index=0, item=answer.item())
        yield self._event(f"response.{answer.status}", response=answer.response())

    def _in_part(self, answer: _Answer, what: str, **fields: Any) -> dict[str, Any]:
        kind = "refusal" if answer.is_refusal else "output_text"
        return self._in_item(answer, f"response.{kind}.{what}", **fields)

    def _in_item(self, answer: _Answer, name: str, **fields: Any) -> dict[str, Any]:
        return self._event(name, item_id=answer.item_id, output_index=0, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> dict[str, Any]:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return chat's usage in this API's words."""
    usage = usage or {}
    read = usage.get("prompt_tokens_details") or {}
    made = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": usage.get("prompt_tokens", 0),
        "input_tokens_details": {
            "cached_tokens": read.get("cached_tokens", 0),
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"reasoning_tokens": made.get("reasoning_tokens", 0)},
        "total_tokens": usage.get("total_tokens", 0),
    }


def _without_null(value: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: item for name, item in (value or {}).items() if item is not None}


def _sse(event: Mapping[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + dumps(event) + b"\n\n"
