"""Streamed answers, read without I/O: bytes become events, and in the end an `Answer`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from router_client._errors import InvalidResponse, StreamInterrupted
from router_client._models import (
    Answer,
    FunctionCall,
    RouterInfo,
    StreamEnd,
    StreamEvent,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from router_client._response import error_object, request_id, validated
from router_client._sse import SSEDecoder


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _FunctionDelta(_Wire):
    name: str | None = None
    arguments: str | None = None


class _ToolCallDelta(_Wire):
    index: int
    id: str | None = None
    function: _FunctionDelta = _FunctionDelta()


class _Delta(_Wire):
    content: str | None = None
    tool_calls: tuple[_ToolCallDelta, ...] | None = None


class _ChunkChoice(_Wire):
    index: int = 0
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Chunk(_Wire):
    id: str | None = None
    model: str | None = None
    choices: tuple[_ChunkChoice, ...] = ()
    usage: Usage | None = None
    router: RouterInfo | None = None


class _ToolCallParts:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def add(self, delta: _ToolCallDelta) -> None:
        self.id = self.id or delta.id or ""
        self.name = self.name or delta.function.name or ""
        self.arguments.append(delta.function.arguments or "")

    def whole(self) -> ToolCall:
        function = FunctionCall(name=self.name, arguments="".join(self.arguments))
        return ToolCall(id=self.id, function=function)


class StreamReader:
    """Bytes in, events out. Only ``[DONE]`` after a finish reason makes an answer complete."""

    def __init__(self) -> None:
        self._decoder = SSEDecoder()
        self._text: list[str] = []
        self._tool_calls: dict[int, _ToolCallParts] = {}
        self._id = ""
        self._model = ""
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._router: RouterInfo | None = None
        self._raw: dict[str, Any] = {}
        self.request_id: str | None = None
        self.answer: Answer | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    def begin(self, response: httpx.Response) -> None:
        """Note the response's headers. Raises InvalidResponse unless it is an event stream."""
        self.request_id = request_id(response)
        kind = response.headers.get("content-type", "")
        if not kind.lower().startswith("text/event-stream"):
            raise InvalidResponse(
                f"asked for a stream, got content type {kind!r} from {response.url}",
                request_id=self.request_id,
            )

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """Yield the events that `chunk` completes.

        Lazily, so that text which came in the same bytes as an error is delivered before it.
        Raises StreamInterrupted at an error event, InvalidResponse at a chunk of the wrong shape.
        """
        for data in self._decoder.feed(chunk):
            if self.answer is not None:  # after [DONE] nothing counts
                return
            if data.strip() == "[DONE]":
                yield self._finish()
            else:
                yield from self._take(data)

    def require_complete(self) -> None:
        """Raise StreamInterrupted unless the answer is whole."""
        if self.answer is None:
            raise self.interrupted("the stream ended before the answer was complete")

    def interrupted(self, message: str, **details: str | None) -> StreamInterrupted:
        kept = f" ({len(self.text)} characters had arrived)"
        return StreamInterrupted(
            message + kept, text=self.text, request_id=self.request_id, **details
        )

    def _take(self, data: str) -> Iterator[StreamEvent]:
        body = self._object(data)
        if (error := error_object(body)) is not None:
            raise self.interrupted(
                error.message, type=error.type, param=error.param, code=error.code
            )
        chunk = validated(_Chunk, body, self.request_id)
        self._id = self._id or chunk.id or ""
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        if chunk.router is not None:
            self._router, self._raw = chunk.router, body
        for choice in chunk.choices:
            if choice.index == 0:
                yield from self._take_choice(choice)

    def _take_choice(self, choice: _ChunkChoice) -> Iterator[StreamEvent]:
        self._finish_reason = choice.finish_reason or self._finish_reason
        if choice.delta.content:
            self._text.append(choice.delta.content)
            yield TextDelta(text=choice.delta.content)
        for delta in choice.delta.tool_calls or ():
            self._tool_calls.setdefault(delta.index, _ToolCallParts()).add(delta)
            yield ToolCallDelta(
                index=delta.index,
                id=delta.id,
                name=delta.function.name,
                arguments=delta.function.arguments or "",
            )

    def _finish(self) -> StreamEnd:
        if self._finish_reason is None:
            raise self.interrupted("the stream was closed without a finish reason")
        if self._router is None:
            raise InvalidResponse(
                "the stream has no `router` object; is base_url the address of a seek-stronger "
                "gateway?",
                request_id=self.request_id,
            )
        self.answer = Answer(
            text=self.text,
            router=self._router,
            usage=self._usage,
            finish_reason=self._finish_reason,
            model=self._model,
            id=self._id,
            request_id=self.request_id,
            tool_calls=tuple(call.whole() for _, call in sorted(self._tool_calls.items())),
            raw=self._raw,
        )
        return StreamEnd(answer=self.answer)

    def _object(self, data: str) -> dict[str, Any]:
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise self.interrupted(
                f"the stream holds an event that is not an object: {data[:80]!r}"
            )
        return body
