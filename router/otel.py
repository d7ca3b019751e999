"""Spans by OpenTelemetry's SDK, sent over OTLP/HTTP. Needs the extra ``tracing``.

Its own variables set it up: ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_EXPORTER_OTLP_HEADERS``,
``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and so on. The provider is not the process's global
one: only what is told here is sent.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.errors import ConfigError
from router.tracing import Ids, Span, Value

SECONDS_TO_CLOSE = 2.0
"""How long a collector that does not answer may hold up the end of the process."""

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPEAKS = "http/protobuf"


class Recorded(Span):
    """A span that is sent when it ends."""

    def __init__(self, tracer: trace.Tracer, inner: trace.Span) -> None:
        self._tracer = tracer
        self._inner = inner

    @property
    def ids(self) -> Ids:
        context = self._inner.get_span_context()
        return Ids(trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id))

    @property
    def headers(self) -> dict[str, str]:
        # No `tracestate`: what a caller put there is not for upstreams.
        flags = self._inner.get_span_context().trace_flags
        return {"traceparent": f"00-{self.ids.trace}-{self.ids.span}-{flags:02x}"}

    def child(self, name: str, *, client: bool = False) -> Span:
        kind = trace.SpanKind.CLIENT if client else trace.SpanKind.INTERNAL
        inside = trace.set_span_in_context(self._inner)
        return Recorded(self._tracer, self._tracer.start_span(name, inside, kind))

    def rename(self, name: str) -> None:
        self._inner.update_name(name)

    def tell(self, attributes: Mapping[str, Value]) -> None:
        if not self._inner.is_recording():  # it has ended, or was not drawn
            return
        for name, value in attributes.items():
            if value is not None and not (isinstance(value, float) and not math.isfinite(value)):
                self._inner.set_attribute(name, value)

    def failed(self, kind: str) -> None:
        if not self._inner.is_recording():
            return
        self._inner.set_attribute("error.type", kind)
        self._inner.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        if self._inner.is_recording():
            self._inner.end()


class SdkTracer:
    """Begins traces and sends them to `exporter`, in a thread of its own."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("seek-stronger", version("seek-stronger"))
        self._propagator = TraceContextTextMapPropagator()

    def request(self, traceparent: str | None) -> Span:
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        outside = self._propagator.extract(carrier)
        # The name is not known before the route is.
        inner = self._tracer.start_span("request", outside, trace.SpanKind.SERVER)
        return Recorded(self._tracer, inner)

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(SECONDS_TO_CLOSE)


def open_tracer() -> SdkTracer:
    """Return a tracer that sends to where the variables of OpenTelemetry say.

    Raises ConfigError when one of them can't be used.
    """
    for variable in _PROTOCOLS:
        spoken = os.environ.get(variable) or _SPEAKS
        if spoken != _SPEAKS:
            raise ConfigError(f"{variable} is {spoken}, but traces are sent by {_SPEAKS} only")
    try:
        return SdkTracer(exporter())
    except ValueError as error:
        raise ConfigError(f"a variable OTEL_... can't be used: {error}") from None


def exporter() -> SpanExporter:
    """Return what sends spans."""
    return OTLPSpanExporter()


def _resource() -> Resource:
    """Who sends: by the variables, and by its own name where they are silent."""
    told = OTELResourceDetector().detect().attributes
    own = {"service.name": "seek-stronger", "service.version": version("seek-stronger")}
    return Resource.create({**own, **told})
