"""Streamed answers to iterate over, in two faces of one `StreamReader`."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from types import TracebackType

import httpx

from router_client._errors import InvalidResponse, StreamInterrupted
from router_client._models import Answer, RouterInfo, StreamEvent, TextDelta, Usage
from router_client._stream_reader import StreamReader


class _StreamState:
    """What a stream knows by now; the same for both faces."""

    def __init__(self) -> None:
        self._reader = StreamReader()

    @property
    def text(self) -> str:
        """The text so far."""
        return self._reader.text

    @property
    def request_id(self) -> str | None:
        """The gateway's `X-Request-Id`; None before the stream is open."""
        return self._reader.request_id

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises RuntimeError before the stream's end."""
        if self._reader.answer is None:
            raise RuntimeError("the answer is not complete; iterate the stream to its end first")
        return self._reader.answer

    @property
    def router(self) -> RouterInfo:
        """How the answer came about. Raises RuntimeError before the stream's end."""
        return self.answer.router

    @property
    def usage(self) -> Usage | None:
        """Tokens of the answer. Raises RuntimeError before the stream's end."""
        return self.answer.usage

    def __repr__(self) -> str:
        state = "not complete" if self._reader.answer is None else "complete"
        return f"<{type(self).__name__} {state}, {len(self.text)} characters>"

    def _cut(self, error: httpx.RequestError) -> StreamInterrupted:
        detail = f": {error}" if str(error) else ""
        return self._reader.interrupted(f"the stream broke, {type(error).__name__}{detail}")


class Stream(_StreamState):
    """A streamed answer: iterate it for the pieces of text, or `events()` for everything.

    The request is sent on entering the ``with`` block, or with the first piece asked for. Leaving
    the block closes the connection, which stops the gateway's work. Iteration that ends without an
    error has delivered the whole answer.

    Raises StreamInterrupted while iterating when the stream is cut, and on opening whatever `ask`
    raises.
    """

    def __init__(self, open_response: Callable[[], httpx.Response]) -> None:
        super().__init__()
        self._open_response = open_response
        self._response: httpx.Response | None = None
        self._source = self._read()

    def __enter__(self) -> Stream:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next piece of text."""
        while True:
            event = self._next_event()
            if event is None:
                raise StopIteration
            if isinstance(event, TextDelta):
                return event.text

    def events(self) -> Iterator[StreamEvent]:
        """Iterate over every event; the last one is a `StreamEnd` with the answer."""
        while (event := self._next_event()) is not None:
            yield event

    def close(self) -> None:
        """Close the connection. An unfinished answer stays unfinished."""
        self._source.close()
        if self._response is not None:
            self._response.close()

    def _next_event(self) -> StreamEvent | None:
        for event in self._source:
            return event
        self._reader.require_complete()
        return None

    def _open(self) -> httpx.Response:
        if self._response is None:
            self._response = self._open_response()
            try:
                self._reader.begin(self._response)
            except InvalidResponse:
                self._response.close()
                raise
        return self._response

    def _read(self) -> Generator[StreamEvent, None, None]:
        response = self._open()
        try:
            for chunk in response.iter_bytes():
                yield from self._reader.feed(chunk)
        except httpx.RequestError as error:
            if self._reader.answer is None:
                raise self._cut(error) from error
        finally:
            response.close()


class AsyncStream(_StreamState):
    """A streamed answer, as `Stream`: use ``async with`` and ``async for``."""

    def __init__(self, open_response: Callable[[], Awaitable[httpx.Response]]) -> None:
        super().__init__()
        self._open_response = open_response
        self._response: httpx.Response | None = None
        self._source = self._read()

    async def __aenter__(self) -> AsyncStream:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        """Return the next piece of text."""
        while True:
            event = await self._next_event()
            if event is None:
                raise StopAsyncIteration
            if isinstance(event, TextDelta):
                return event.text

    async def events(self) -> AsyncIterator[StreamEvent]:
        """Iterate over every event; the last one is a `StreamEnd` with the answer."""
        while (event := await self._next_event()) is not None:
            yield event

    async def close(self) -> None:
        """Close the connection. An unfinished answer stays unfinished."""
        await self._source.aclose()
        if self._response is not None:
            await self._response.aclose()

    async def _next_event(self) -> StreamEvent | None:
        async for event in self._source:
            return event
        self._reader.require_complete()
        return None

    async def _open(self) -> httpx.Response:
        if self._response is None:
            self._response = await self._open_response()
            try:
                self._reader.begin(self._response)
            except InvalidResponse:
                await self._response.aclose()
                raise
        return self._response

    async def _read(self) -> AsyncGenerator[StreamEvent, None]:
        response = await self._open()
        try:
            async for chunk in response.aiter_bytes():
                for event in self._reader.feed(chunk):
                    yield event
        except httpx.RequestError as error:
            if self._reader.answer is None:
                raise self._cut(error) from error
        finally:
            await response.aclose()
