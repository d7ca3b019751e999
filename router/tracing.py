"""Traces: what was done for a request, stage by stage, for OpenTelemetry. Off, they cost a few µs.

A trace belongs to a request. `span` adds a stage to that of the request which the caller works for,
and does nothing where there is none. Spans tell of times, counts, scores, and names from the
settings; never what a prompt, an answer, a key or an exception says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple, Protocol

from router.config import Settings
from router.errors import ConfigError

Value = str | bool | int | float | Sequence[str] | None
"""Of an attribute. None, and what is not a number, are left out."""


class Ids(NamedTuple):
    """A span's place in its trace, in hexadecimal digits."""

    trace: str
    span: str


class Span:
    """A stage, as a context around it; this one leaves no trace.

    It may be around the `yield` of a generator: it is not what further spans are part of, unless
    `current` says so.
    """

    @property
    def ids(self) -> Ids | None:
        """Its place in a trace; None where there is no trace."""
        return None

    @property
    def headers(self) -> dict[str, str]:
        """What a server that is called needs to continue the trace."""
        return {}

    def child(self, name: str, *, client: bool = False) -> Span:
        """Begin a part of it; with `client`, one that another server works at."""
        del name, client
        return self

    def rename(self, name: str) -> None:
        """Call it by what was learned of it."""

    def tell(self, attributes: Mapping[str, Value]) -> None:
        """Add what is known of it."""

    def failed(self, kind: str) -> None:
        """It came to nothing, by an error of this kind."""

    def end(self) -> None:
        """It is over now, and not at the end of its context."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Spans that are begun inside are part of it. Not for generators."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind in (GeneratorExit, asyncio.CancelledError):
            self.tell({"router.given_up": True})
        elif kind is not None:
            self.failed(kind.__name__)
        self.end()


NOTHING = Span()
_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


def span(name: str, *, client: bool = False) -> Span:
    """Begin a stage of what is done for the current request."""
    return _current.get().child(name, client=client)


def current_ids() -> Ids | None:
    """Where in a trace the caller is; None where there is none."""
    return _current.get().ids


class Tracer(Protocol):
    """Begins traces, and brings them to where they are looked at."""

    def request(self, traceparent: str | None) -> Span:
        """Begin a trace, or continue a caller's by its header."""

    def close(self) -> None:
        """Send what has ended, within a few seconds."""


class Tracing:
    """Traces of requests, as the settings want them; none before `start`."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None

    def start(self, settings: Settings) -> None:
        """Trace requests from now on, if `settings` say so.

        Raises ConfigError when what that needs is not installed, or a variable can't be used.
        """
        if settings.tracing == "off":
            return
        try:
            from router import otel  # noqa: PLC0415  an extra
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("opentelemetry"):
                raise
            raise ConfigError(
                "`tracing` needs OpenTelemetry, which is not installed: "
                "pip install 'seek-stronger[tracing]', or set `tracing` to off"
            ) from None
        self._tracer = otel.open_tracer()

    async def close(self) -> None:
        tracer, self._tracer = self._tracer, None
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

    def request(self, traceparent: str | None) -> Span:
        """Begin the trace of a request, or continue its caller's."""
        return NOTHING if self._tracer is None else self._tracer.request(traceparent)
