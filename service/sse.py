"""A routed answer as server-sent events, OpenAI's way.

In `hold` mode the decision is made before the headers go out, so everything up to there can still
fail as a proper HTTP error. After that a stream ends in one of two ways: complete, with a finish
reason, the `router` object and ``[DONE]``; or cut, with an error event and no ``[DONE]``.

The `router` object rides on the usage chunk where the client asked for one, else on the finish
chunk: a client that indexes ``choices[0]`` of every chunk never meets an empty list it did not ask
for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from router.answer import Choice, RemoteChunk
from router.engine.messages import TextDelta
from router.errors import RouterError
from service.errors import ApiError, from_router_error
from service.gateway import Served, StreamHead, StreamItem
from service.replies import (
    Envelope,
    answer_usage,
    deltas,
    finish_choice,
    finishes,
    message_delta,
    router_object,
    token_logprobs,
    token_texts,
)
from service.strict_json import dumps
from service.tools import message_of

KIND = "chat.completion.chunk"
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """A stream of events that gives up `items`, which they are made from, however it ends."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        items: AsyncGenerator[StreamItem, None],
        headers: Mapping[str, str],
    ) -> None:
        # Proxies that buffer would hold the pieces back.
        headers = {**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)
        self._events = events
        self._items = items

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._items.aclose()  # events that were never asked for don't close them


class ChunkWriter:
    """Turns the items of one streamed answer into `chat.completion.chunk` objects."""

    def __init__(
        self, envelope: Envelope, *, include_usage: bool, logprobs: bool, n_top: int
    ) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._n_top = n_top
        self._begun: set[int] = set()
        """The choices of which something was sent."""
        self._held: dict[str, Any] | None = None
        self._remote: Mapping[str, Any] | None = None

    def chunks(self, item: StreamItem) -> Iterator[dict[str, Any]]:
        """Yield the chunks that `item` amounts to; those of the last one complete the stream."""
        match item:
            case StreamHead():
                return
            case TextDelta():
                # Tokens and their log-probabilities are known at the end, and shown together.
                if not self._logprobs:
                    yield from self._text(item.text)
            case RemoteChunk():
                yield from self._pass_on(item.body)
            case Served():
                yield from self._end(item)

    def _text(
        self, text: str, logprobs: dict[str, Any] | None = None, index: int = 0
    ) -> Iterator[dict[str, Any]]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._local([_delta({"role": "assistant", "content": ""}, index=index)])
        yield self._local([_delta({"content": text}, logprobs, index)])

    def _choice(self, choice: Choice, index: int) -> Iterator[dict[str, Any]]:
        """Yield a local answer's choice, which is there at once."""
        if choice.finish_reason == "tool_calls" and index not in self._begun:
            entries = token_logprobs(choice, self._n_top) if self._logprobs else None
            shown = None if entries is None else {"content": entries, "refusal": None}
            delta = message_delta(message_of(choice, index, self._envelope.id))
            yield self._local([_delta(delta, shown, index)])
            return
        if self._logprobs:
            entries = token_logprobs(choice, self._n_top)
            for text, entry in zip(token_texts(choice), entries, strict=True):
                yield from self._text(text, {"content": [entry], "refusal": None}, index)
        if index not in self._begun:
            yield from self._text(choice.text, index=index)

    def _pass_on(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Pass an upstream's chunk on under our id; hold its last one until the answer is whole.

        Chunks without choices tell the usage, which is told at the end, to those who asked.
        """
        self._remote = body
        choices = body.get("choices")
        if not choices:
            return
        if self._held is not None:
            yield self._held
            self._held = None
        chunk = {name: value for name, value in body.items() if name not in ("router", "usage")}
        chunk["id"] = self._envelope.id
        self._begun.update(choice.get("index", 0) for choice in choices)
        if any(choice.get("finish_reason") is not None for choice in choices):
            self._held = chunk
        else:
            yield chunk

    def _end(self, served: Served) -> Iterator[dict[str, Any]]:
        """Yield what is still missing: content that was there at once, finish, usage, `router`."""
        answer = served.answer
        remote = answer.remote_body if answer.decision.route == "remote" else None
        if not self._begun and remote is not None:
            self._remote = remote
            yield self._like_remote(deltas(remote))
            self._held = self._like_remote(finishes(remote))
        finished = [finish_choice(answer.finish_reason)]
        if remote is None:
            finished = []
            for index, choice in enumerate(answer.choices):
                yield from self._choice(choice, index)
                finished.append(finish_choice(choice.finish_reason, index))
        last = self._held or self._chunk(finished)
        router = router_object(answer, served.cache)
        if self._include_usage:
            yield last
            yield self._chunk([], usage=answer_usage(answer), router=router)
        else:
            yield {**last, "router": router}

    def _chunk(self, choices: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Return a chunk of whichever leg answers."""
        if self._remote is not None:
            return self._like_remote(choices) | fields
        return self._local(choices) | fields

    def _local(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._include_usage else {}
        return {**self._envelope.fields(KIND), "choices": choices, **usage}

    def _like_remote(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a chunk that carries the upstream's model and so on, and our id."""
        source = self._remote or {}
        shared = self._envelope.fields(KIND)
        own = {name: source[name] for name in shared if source.get(name) is not None}
        ours = {"id": self._envelope.id, "object": KIND}
        return {**shared, **own, **ours, "choices": choices}


class Chunks(Protocol):
    """What turns a stream's items into chunks."""

    def chunks(self, item: StreamItem) -> Iterator[dict[str, Any]]:
        """Yield the chunks that `item` amounts to; those of the last one complete the stream."""


async def chat_events(
    items: AsyncIterator[StreamItem], writer: Chunks, log: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a streamed answer. `log` is told how it ended."""
    try:
        async for item in items:
            for chunk in writer.chunks(item):
                yield event(chunk)
            if isinstance(item, Served):
                yield DONE
                return
    except (RouterError, ApiError) as exc:
        log["cut"] = type(exc).__name__
        yield event(error_body(exc))


def event(data: Mapping[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + dumps(data) + b"\n\n"


def _delta(
    delta: dict[str, Any], logprobs: dict[str, Any] | None = None, index: int = 0
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def error_body(exc: RouterError | ApiError) -> Mapping[str, Any]:
    """Return the error event of a stream that is cut. Raises `exc` when it is our own fault."""
    face = exc if isinstance(exc, ApiError) else from_router_error(exc)
    if face is None:
        raise exc
    return face.body()
