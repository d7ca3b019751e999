"""Streams in pieces: an upstream's chunks, and a local answer's tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from router.answer import Usage
from router.engine.messages import Completion
from router.errors import UpstreamUnavailable
from router.remote import usage_of


async def first_chunk(chunks: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    """The upstream's first chunk. Raises UpstreamUnavailable also when there is none."""
    try:
        return await anext(chunks)
    except StopAsyncIteration:
        raise UpstreamUnavailable("the upstream sent an empty stream") from None


def pieces_of(completion: Completion | None) -> Iterator[str]:
    """The answer's text, cut where its tokens begin."""
    if completion is None:
        return
    trace = completion.trace
    starts = [int(offset) for offset in trace.offsets]
    for start, end in zip(starts, [*starts[1:], len(trace.text)], strict=True):
        if end > start:
            yield trace.text[start:end]


class StreamSummary:
    """What an upstream's chunks amount to."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason = "stop"
        self.usage = Usage()

    def add(self, chunk: Mapping[str, Any]) -> None:
        self.usage = usage_of(chunk) or self.usage
        for choice in chunk.get("choices") or []:
            self.text += (choice.get("delta") or {}).get("content") or ""
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
