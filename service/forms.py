"""How an endpoint shows an answer: the same answers, told in the words of OpenAI's several APIs.

Every answer is first OpenAI's chat completion, or chunks of one. A form turns these into what its
endpoint's clients expect.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Protocol

from service.gateway import StreamItem
from service.sse import ChunkWriter, chat_events


class Form(Protocol):
    """What differs between the endpoints that answer."""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that tells the usage."""

    def new_id(self) -> str:
        """Return an id for the next response."""

    def whole(self, completion: dict[str, Any]) -> Mapping[str, Any]:
        """Return the body of a response that is not streamed."""

    def events(
        self, items: AsyncIterator[StreamItem], writer: ChunkWriter, log: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the events of a streamed response. `log` is told how it ended."""


@dataclass(frozen=True, slots=True)
class ChatForm:
    """``/v1/chat/completions``."""

    include_usage: bool

    def new_id(self) -> str:
        return f"chatcmpl-{token_hex(16)}"

    def whole(self, completion: dict[str, Any]) -> Mapping[str, Any]:
        return completion

    def events(
        self, items: AsyncIterator[StreamItem], writer: ChunkWriter, log: dict[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        return chat_events(items, writer, log)
