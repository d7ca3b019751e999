"""Around every request: its id, its log line, its metrics, and the last resort for errors."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import internal_error
from service.hardening import harden
from service.metrics import Metrics

logger = logging.getLogger(__name__)

HEADER = "X-Request-Id"
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class RequestContext:
    """ASGI middleware: takes the client's `X-Request-Id` or makes one, and gives it back."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(Headers(scope=scope).get(HEADER))
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
            logs.request_id_var.reset(token)

    def _finish(self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]) -> None:
        endpoint = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(endpoint, str(status)).inc()
        self._metrics.request_seconds.labels(endpoint).observe(seconds)
        if "cut" in facts:
            self._metrics.streams_cut.inc()
        quiet = endpoint in ("/healthz", "/readyz", "/metrics", "/v1/dashboard")
        logger.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 2),
                **facts,
            },
        )


def _request_id(given: str | None) -> str:
    """Return the client's id when it is short and plain, else a new one."""
    if given is not None and _SANE_ID.fullmatch(given):
        return given
    return f"req_{uuid.uuid4().hex}"
