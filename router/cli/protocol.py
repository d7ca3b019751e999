"""HTTP as uvicorn speaks it, with bounds on what a client may send before it is a request.

uvicorn's own parser takes headers of any size and waits for them for ever.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
"""What a request's first line and headers may take together."""

HEAD_FIELDS = 100
"""How many headers a request may have."""

HEAD_SECONDS = 10.0
"""How long a client may take over them, from its connection or from its first byte."""

LINGER_SECONDS = 5.0
"""How long a client may go on with a body after it has been answered."""


class _HeadTooLargeError(Exception):
    """Stops the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. A head that is too large is a 431, one that is too slow is hung up on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expects_head = True
        self._size = 0
        self._unfinished = 0
        self._too_slow: asyncio.TimerHandle | None = None
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._hang_up_in(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stay()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._expects_head:
            self._unfinished += len(data)  # the parser does not tell of a line without an end
            if self._too_slow is None:
                self._hang_up_in(HEAD_SECONDS)
        super().data_received(data)
        if self._unfinished > HEAD_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        self._size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stay()
        self._expects_head = False
        self._unfinished = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stay()
        self._expects_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._expects_head:  # a body is still coming, and nobody reads it
            self._hang_up_in(LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        if not self._too_large:
            super().send_400_response(msg)
            return
        self.transport.write(_REFUSAL)
        self.transport.close()

    def _grow(self, n: int) -> None:
        self._size += n
        if self._size > HEAD_BYTES or len(self.headers) >= HEAD_FIELDS:
            self._too_large = True
            raise _HeadTooLargeError

    def _hang_up_in(self, seconds: float) -> None:
        self._stay()
        self._too_slow = self.loop.call_later(seconds, self.transport.close)

    def _stay(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None


def _refusal() -> bytes:
    error = {
        "message": f"The request's headers are larger than {HEAD_BYTES // 1024} KiB, or more than "
        f"{HEAD_FIELDS}.",
        "type": "invalid_request_error",
        "param": None,
        "code": "headers_too_large",
    }
    body = json.dumps({"error": error}).encode()
    head = (
        "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_REFUSAL = _refusal()
