"""Structured logs: one JSON object a line, with the id of the request it belongs to.

Prompts, answers, keys and the texts of unexpected exceptions (which may quote a prompt) are never
written; an unexpected exception is logged as its type and the places it passed through.
"""

from __future__ import annotations

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from router.tracing import current_ids

request_id_var: ContextVar[str | None] = ContextVar("request_id", default=None)

_render = json.JSONEncoder(default=str).encode
_LOGGERS = ("service", "router", "uvicorn", "opentelemetry")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """time, level, logger, event, request_id, the trace, then whatever the call gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        request_id = request_id_var.get()
        if request_id is not None:
            line["request_id"] = request_id
        ids = current_ids()
        if ids is not None:
            line.update(trace_id=ids.trace, span_id=ids.span)
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
        if record.exc_info and record.exc_info[1] is not None:
            line.update(describe(record.exc_info[1]))
        return _render(line)


def describe(exc: BaseException) -> dict[str, Any]:
    """Return an exception's type and the places it passed through, without its text."""
    frames = traceback.extract_tb(exc.__traceback__)
    return {
        "error": f"{type(exc).__module__}.{type(exc).__qualname__}",
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def configure(level: str) -> None:
    """Write the gateway's logs to stderr, unless the embedding program has set up logging.

    Those of the server and of OpenTelemetry, which has a thread of its own, are among them.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if name in ("service", "router"):
            logger.setLevel(level.upper())
        if not logger.handlers and not logging.getLogger().handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(JsonFormatter())
            logger.addHandler(handler)
