"""Around every request: its id, its log line, its metrics, and the last resort for errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from secrets import token_hex
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.tracing import NOTHING, Span, Tracing
from service import logs
from service.errors import internal_error
from service.hardening import harden
from service.metrics import Metrics

logger = logging.getLogger(__name__)

HEADER = "X-Request-Id"
QUIET = frozenset({"/healthz", "/readyz", "/metrics", "/v1/dashboard"})
"""What is asked every few seconds: no lines in the log, no traces."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestContext:
    """ASGI middleware: takes the client's `X-Request-Id` or makes one, and gives it back."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        quiet = scope["path"] in QUIET
        span = NOTHING if quiet else self._tracing.request(headers.get("traceparent"))
        answered = self._answer(scope, receive, send, _request_id(headers.get(HEADER)), span)
        if span is NOTHING:
            await answered
            return
        with span, span.current():
            await answered

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, span: Span
    ) -> None:
        began = time.perf_counter()
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=facts)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                caller = scope["state"].get("caller")
                harden(message["headers"], scope["path"], keyed=caller is not None and caller.keyed)
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        token = logs.request_id_var.set(request_id)
        try:
            await self._app(scope, receive, send_with_id)
        except Exception as exc:
            logger.error("internal error", exc_info=exc)
            if status:
                # The response can only be cut. The server logs what it gets: no text of unknown
                # origin, which might quote a prompt.
                message = f"response of request {request_id} cut by an internal error"
                raise ConnectionAbortedError(message) from None
            await internal_error(request_id).response()(scope, receive, send_with_id)
        finally:
            self._finish(scope, status, time.perf_counter() - began, facts)
            _trace(span, scope, status, request_id, facts)
            logs.request_id_var.reset(token)

    def _finish(self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]) -> None:
        self._metrics.requested(_endpoint(scope), status, seconds)
        if "cut" in facts:
            self._metrics.streams_cut.inc()
        logger.log(
            logging.DEBUG if scope["path"] in QUIET else logging.INFO,
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                **facts,
            },
        )


def _endpoint(scope: Scope) -> str:
    """The route's pattern; `other` where there is none."""
    return str(getattr(scope.get("route"), "path", "other"))


def _trace(
    span: Span, scope: Scope, status: int, request_id: str, facts: Mapping[str, Any]
) -> None:
    """Tell of a request that is over: what its line in the log tells, but no path of its own."""
    if span is NOTHING:
        return
    endpoint = _endpoint(scope)
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    span.rename(f"{method} {endpoint}")
    span.tell(
        {
            "http.request.method": method,
            "http.route": endpoint,
            "http.response.status_code": status or None,
            "router.request_id": request_id,
            **{f"router.{name}": value for name, value in facts.items()},
        }
    )
    if status >= 500 or "cut" in facts:
        span.failed(str(facts.get("cut", status)))


def _request_id(given: str | None) -> str:
    """Return the client's id when it is short and plain, else a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return f"req_{token_hex(16)}"
