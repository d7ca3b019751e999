"""What an upstream's API looks like on the wire, without the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from router import remote_body, sse
from router.errors import UpstreamRejected
from router.remote_body import Completeness, RemoteAnswer


class NotExpressible(UpstreamRejected):
    """The request asks for what this upstream's API has no words for; nothing was sent."""

    def __init__(self, param: str, need: str, api: str) -> None:
        message = f"`{param}` asks for {need}, which {api} does not offer; leave it out"
        error = {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": "unsupported_by_upstream",
        }
        super().__init__(400, {"error": error})
        self.args = (message,)


class ChunkReader(Protocol):
    """Turns the events of one stream into OpenAI's chunks."""

    def read(self, data: str) -> Iterable[dict[str, Any]]:
        """The chunks that an event's data stands for. Raises BadBodyError."""

    @property
    def ended(self) -> bool:
        """Whether the upstream said that nothing follows."""

    @property
    def complete(self) -> bool:
        """Whether what was read is a whole answer."""


class Dialect(Protocol):
    """One API. Requests come in OpenAI's shape, answers and chunks go out in it."""

    path: str
    """Of the endpoint that answers, behind the base URL."""
    hint: str
    """What to look at when the address seems to be wrong."""

    def headers(self, key: str | None) -> dict[str, str]:
        """The headers that say who asks."""

    def request(self, body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
        """What to send. Raises NotExpressible."""

    def answer(self, raw: bytes, content_type: str) -> RemoteAnswer:
        """Read a whole answer. Raises BadBodyError."""

    def error(self, body: dict[str, Any]) -> dict[str, Any]:
        """An error's body in OpenAI's shape."""

    def chunks(self) -> ChunkReader:
        """A reader for one stream."""


class OpenAI:
    """OpenAI's chat completions, which most servers speak."""

    path = "/chat/completions"
    hint = (
        "; is `upstream` the address of an OpenAI-compatible API, ending in its path such as /v1?"
    )

    def headers(self, key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def request(self, body: Mapping[str, Any], model: str, *, stream: bool) -> dict[str, Any]:
        return remote_body.request_body(body, model, stream=stream)

    def answer(self, raw: bytes, content_type: str) -> RemoteAnswer:
        return remote_body.parse_answer(raw, content_type)

    def error(self, body: dict[str, Any]) -> dict[str, Any]:
        return body

    def chunks(self) -> ChunkReader:
        return _OpenAIChunks()


class _OpenAIChunks:
    def __init__(self) -> None:
        self._completeness = Completeness()
        self.ended = False

    def read(self, data: str) -> Iterable[dict[str, Any]]:
        if data.strip() == sse.DONE:
            self.ended = True
            return
        chunk = remote_body.parse_chunk(data)
        self._completeness.add(chunk)
        yield chunk

    @property
    def complete(self) -> bool:
        return self.ended or bool(self._completeness)
