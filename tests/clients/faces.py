"""One face over both clients, so that a test is written once and runs against each."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, TypeVar

import httpx
from router_client import AsyncRouterClient, AsyncStream, RouterClient, Stream, StreamEvent

from .wire import Handler

T = TypeVar("T")


class Streamed:
    """How a stream went: what came, the stream itself, and the error that ended it."""

    def __init__(self, stream: Stream | AsyncStream) -> None:
        self.stream = stream
        self.pieces: list[str] = []
        self.events: list[StreamEvent] = []
        self.error: Exception | None = None


class Face(ABC):
    """Calls a client's methods by name, on a mock transport or at a real address."""

    @abstractmethod
    def call(self, handler: Handler | str, method: str, *args: Any, **options: Any) -> Any:
        """Return what the method returns; `handler` may be an address instead."""

    @abstractmethod
    def stream(self, handler: Handler | str, *, events: bool = False, **options: Any) -> Streamed:
        """Iterate over a stream until it ends or fails."""


class SyncFace(Face):
    def call(self, handler: Handler | str, method: str, *args: Any, **options: Any) -> Any:
        with self._client(handler, options) as client:
            return getattr(client, method)(*args, **options)

    def stream(self, handler: Handler | str, *, events: bool = False, **options: Any) -> Streamed:
        with self._client(handler, options) as client:
            prompt = options.pop("prompt", "question")
            seen = Streamed(stream := client.stream(prompt, **options))
            try:
                with stream:
                    if events:
                        seen.events.extend(stream.events())
                    else:
                        for piece in stream:
                            seen.pieces.append(piece)
            except Exception as error:  # noqa: BLE001  every kind is the tests' to judge
                seen.error = error
            return seen

    def _client(self, handler: Handler | str, options: dict[str, Any]) -> RouterClient:
        settings = options.pop("client", {})
        if isinstance(handler, str):
            return RouterClient(handler, **settings)
        return RouterClient(transport=httpx.MockTransport(handler), **settings)


class AsyncFace(Face):
    def call(self, handler: Handler | str, method: str, *args: Any, **options: Any) -> Any:
        async def main() -> Any:
            async with self._client(handler, options) as client:
                return await getattr(client, method)(*args, **options)

        return asyncio.run(main())

    def stream(self, handler: Handler | str, *, events: bool = False, **options: Any) -> Streamed:
        async def main() -> Streamed:
            async with self._client(handler, options) as client:
                prompt = options.pop("prompt", "question")
                seen = Streamed(stream := client.stream(prompt, **options))
                try:
                    async with stream:
                        if events:
                            async for event in stream.events():
                                seen.events.append(event)
                        else:
                            async for piece in stream:
                                seen.pieces.append(piece)
                except Exception as error:  # noqa: BLE001  every kind is the tests' to judge
                    seen.error = error
                return seen

        return asyncio.run(main())

    def _client(self, handler: Handler | str, options: dict[str, Any]) -> AsyncRouterClient:
        settings = options.pop("client", {})
        if isinstance(handler, str):
            return AsyncRouterClient(handler, **settings)
        return AsyncRouterClient(transport=httpx.MockTransport(handler), **settings)
