"""Traces of requests: their stages, where they go, and what is never in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from router.errors import ConfigError
from router.pipeline import Pipeline
from router.remote import Upstream
from router.upstreams.health import Health
from router.upstreams.pool import Member, UpstreamPool
from service import logs
from service.middleware import QUIET
from tests.router.fake_upstream import (
    DONE,
    Server,
    Step,
    answer,
    chunk,
    completion,
    event,
    scripted,
    streamed,
)
from tests.router.traffic import Engine, held_out
from tests.service.scripted import client_of, make_app, running

KEPT, ESCALATED = 0.7, 1.3
"""Perplexities."""

SECRET = "my secret diagnosis"
SAID = "a secret reply"
KEY = "sk-of-the-upstream"
WELL = answer(completion(SAID))
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
WELL_STREAMED = streamed(chunk(SAID), chunk(finish="stop"), event(USAGE), DONE)

CALLERS_TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLERS_SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    held_out("threshold=0.5").save(folder)
    return folder


@pytest.fixture(autouse=True)
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of this test's gateways go; they are there once the gateway has closed."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr("router.otel.exporter", lambda: kept)
    return kept


@dataclass
class Gateway:
    client: httpx.AsyncClient
    engine: Engine
    server: Server

    async def ask(
        self, perplexity: float = KEPT, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        self.engine.coming = [perplexity]
        body = {"model": "auto", "messages": [{"role": "user", "content": SECRET}], **fields}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)


@asynccontextmanager
async def gateway(folder: Path, step: Step = WELL, **settings: Any) -> AsyncIterator[Gateway]:
    engine = Engine()
    chosen = {"tracing": "on", "ledger": "off", "audit_rate": 0.0, **settings}
    async with scripted(step) as server:
        upstream = Upstream(
            server.url, "large", KEY, name="main", backoff=0.001, health=Health("main")
        )
        pool = UpstreamPool([Member(upstream)])
        pipeline = Pipeline(engine, calibration_folder=str(folder), upstream=pool)
        await pipeline.start()
        async with client_of(pipeline, **chosen) as client:
            yield Gateway(client, engine, server)


class Trace:
    """The spans of one request."""

    def __init__(self, spans: InMemorySpanExporter) -> None:
        self.spans = spans.get_finished_spans()
        (self.request,) = [span for span in self.spans if span.kind is SpanKind.SERVER]
        assert len({context(span).trace_id for span in self.spans}) == 1

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def parts(self, whole: ReadableSpan) -> set[str]:
        ids = context(whole).span_id
        return {span.name for span in self.spans if span.parent and span.parent.span_id == ids}


def context(span: ReadableSpan) -> Any:
    return span.context


def told(span: ReadableSpan, *names: str) -> list[Any]:
    return [(span.attributes or {}).get(name) for name in names]


def traceparent(span: ReadableSpan) -> str:
    ids = context(span)
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"


async def test_each_stage_of_an_escalated_query_is_a_part_of_its_request(
    folder: Path, spans: InMemorySpanExporter
) -> None:
    async with gateway(folder) as made:
        reply = await made.ask(ESCALATED, {"X-Request-Id": "mine"})
        sent = made.server.requests[0].headers["traceparent"]
    trace = Trace(spans)
    local = f"chat {made.engine.info.model_name}"
    assert trace.request.name == "POST /v1/chat/completions"
    assert trace.request.parent is None
    stages = {"look up", local, "look closer", "decide", "chat large", "keep"}
    assert trace.parts(trace.request) == stages
    assert len(trace.spans) == 1 + len(stages)

    router = reply.json()["router"]
    names = ["route", "reason", "p_correct", "threshold", "degraded", "cache", "request_id"]
    assert told(trace.request, *[f"router.{name}" for name in names]) == [
        *[router[name] for name in names[:-1]],
        "mine",
    ]
    assert told(trace.request, "http.route", "http.response.status_code") == [
        "/v1/chat/completions",
        200,
    ]
    assert told(trace.named("decide"), "router.route", "router.reason", "router.p_correct") == [
        "remote",
        "uncertain",
        router["p_correct"],
    ]
    assert told(trace.named("look up"), "router.cache.hit") == [False]
    generation = trace.named(local)
    assert generation.kind is SpanKind.INTERNAL
    assert told(generation, "gen_ai.operation.name", "gen_ai.usage.output_tokens") == ["chat", 2]
    assert told(generation, "gen_ai.response.finish_reasons") == [("stop",)]
    call = trace.named("chat large")
    assert call.kind is SpanKind.CLIENT
    assert told(call, "gen_ai.provider.name", "gen_ai.request.model") == ["openai", "large"]
    assert told(call, "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens") == [7, 3]
    assert told(call, "router.upstream", "router.attempts") == ["main", 1]
    assert told(call, "server.address", "server.port") == [
        "127.0.0.1",
        httpx.URL(made.server.url).port,
    ]
    assert sent == traceparent(call)


async def test_a_kept_answer_has_no_upstreams_part(
    folder: Path, spans: InMemorySpanExporter
) -> None:
    async with gateway(folder) as made:
        await made.ask()
    trace = Trace(spans)
    assert told(trace.request, "router.route") == ["local"]
    assert not [span for span in trace.spans if span.kind is SpanKind.CLIENT]


async def test_an_answer_from_the_cache_is_only_looked_up(
    folder: Path, spans: InMemorySpanExporter
) -> None:
    async with gateway(folder) as made:
        await made.ask()
        await made.ask()
    *_, lookup, hit = spans.get_finished_spans()
    assert (lookup.name, told(lookup, "router.cache.hit")) == ("look up", [True])
    assert told(hit, "router.cache") == ["hit"]


@pytest.mark.parametrize(
    ("fields", "step", "last"),
    [
        ({"model": "local"}, WELL, "local"),
        ({"model": "remote"}, WELL_STREAMED, "large"),
        ({"router": {"stream_mode": "commit"}}, WELL_STREAMED, "local"),
    ],
    ids=["local", "remote", "commit"],
)
async def test_streamed_answers_are_traced_to_their_end(
    folder: Path, spans: InMemorySpanExporter, fields: Any, step: Step, last: str
) -> None:
    async with gateway(folder, step) as made:
        reply = await made.ask(stream=True, **fields)
        assert "[DONE]" in reply.text
    trace = Trace(spans)
    name = "chat large" if last == "large" else f"chat {made.engine.info.model_name}"
    stage = trace.named(name)
    assert stage.parent == trace.request.context
    assert told(stage, "gen_ai.request.stream", "router.given_up") == [True, None]
    assert told(stage, "gen_ai.usage.output_tokens") == [3 if last == "large" else 2]
    if last == "large":
        (waited,) = told(stage, "gen_ai.response.time_to_first_chunk")
        assert waited > 0
        assert made.server.requests[0].headers["traceparent"] == traceparent(stage)
    assert (trace.request.end_time or 0) >= (stage.end_time or 1)


async def test_a_callers_trace_is_continued_and_nothing_else_of_it(
    folder: Path, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": TRACEPARENT, "tracestate": f"vendor={KEY}", "baggage": f"a={KEY}"}
    async with gateway(folder) as made:
        await made.ask(ESCALATED, headers)
        sent = made.server.requests[0].headers
    trace = Trace(spans)
    assert trace.request.parent is not None
    assert f"{trace.request.parent.span_id:016x}" == CALLERS_SPAN
    assert f"{context(trace.request).trace_id:032x}" == CALLERS_TRACE
    assert sent["traceparent"].split("-")[1] == CALLERS_TRACE
    assert not {"tracestate", "baggage"} & set(sent)
    assert not context(trace.request).trace_state


@pytest.mark.parametrize("odd", ["", "nonsense", f"00-{'0' * 32}-{CALLERS_SPAN}-01", "x" * 5000])
async def test_a_header_that_is_none_begins_a_new_trace(
    folder: Path, spans: InMemorySpanExporter, odd: str
) -> None:
    async with gateway(folder) as made:
        assert (await made.ask(headers={"traceparent": odd})).status_code == 200
    assert Trace(spans).request.parent is None


async def test_a_failing_upstream_is_told_by_kind(
    folder: Path, spans: InMemorySpanExporter
) -> None:
    async with gateway(folder, answer({"error": SECRET}, 500)) as made:
        reply = await made.ask(model="remote")
    assert reply.status_code == 502
    trace = Trace(spans)
    call = trace.named("chat large")
    assert call.status.status_code is trace.request.status.status_code is StatusCode.ERROR
    assert told(call, "error.type") == ["UpstreamUnavailable"]
    assert told(trace.request, "error.type") == ["502"]
    assert not call.events


async def test_an_audit_is_a_part_of_its_request(
    folder: Path, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    ledger = str(tmp_path / "ledger.db")
    async with gateway(folder, ledger=ledger, audit_rate=1.0) as made:
        await made.ask()
        async with asyncio.timeout(20):
            while "router_audits_total{" not in (await made.client.get("/metrics")).text:
                await asyncio.sleep(0.01)
    trace = Trace(spans)
    audit = trace.named("audit")
    assert "audit" in trace.parts(trace.request)
    assert trace.parts(audit) == {"chat large"}


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"router": {"local_only": True}}])
async def test_what_was_said_is_in_no_span(
    folder: Path, spans: InMemorySpanExporter, fields: dict[str, Any]
) -> None:
    step = WELL_STREAMED if "stream" in fields else WELL
    async with gateway(folder, step) as made:
        for n, perplexity in enumerate((KEPT, ESCALATED)):
            await made.ask(perplexity, seed=n, user=SECRET, **fields)
        await made.client.get(f"/{SECRET}?q={SECRET}", headers={"Authorization": f"Bearer {KEY}"})
        made.engine.reply = ValueError(SECRET)  # a bug
        await made.ask(**fields)
        n_sent = len(made.server.requests)
    all_told = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "chat" in all_told
    for secret in (SECRET, SAID, KEY, "Paris"):
        assert secret not in all_told
    assert n_sent == (0 if "router" in fields else 1)


async def test_strange_requests_have_few_names(folder: Path, spans: InMemorySpanExporter) -> None:
    async with gateway(folder) as made:
        await made.client.request("BREW", "/pot/1")
        await made.client.get("/pot/2")
        for path in QUIET:
            await made.client.get(path)
    assert [span.name for span in spans.get_finished_spans()] == ["_OTHER other", "GET other"]


async def test_off_nothing_is_begun_or_passed_on(folder: Path, spans: InMemorySpanExporter) -> None:
    async with gateway(folder, tracing="off") as made:
        await made.ask(ESCALATED, {"traceparent": TRACEPARENT})
        assert "traceparent" not in made.server.requests[0].headers
    assert not spans.get_finished_spans()


def test_off_no_tracing_is_loaded() -> None:
    script = (
        "import sys, service.app\n"
        "from router.config import Settings\n"
        "service.app.create_app(Settings())\n"
        "extra = ('opentelemetry.sdk.trace', 'router.otel')\n"
        "print([name for name in sys.modules if name.startswith(extra)])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


async def test_what_is_not_drawn_is_not_sent(
    folder: Path, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with gateway(folder) as made:
        assert (await made.ask(ESCALATED)).status_code == 200
        sent = made.server.requests[0].headers["traceparent"]
    assert int(sent[-2:], 16) & 1 == 0
    assert not spans.get_finished_spans()


async def test_lines_in_the_log_name_the_trace(folder: Path) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger("service").addHandler(handler)
    try:
        async with gateway(folder) as made:
            await made.ask(headers={"traceparent": TRACEPARENT})
    finally:
        logging.getLogger("service").removeHandler(handler)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["event"], line["trace_id"]) == ("request", CALLERS_TRACE)
    assert len(line["span_id"]) == 16


async def test_without_the_extra_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "router.otel")
    monkeypatch.delattr("router.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'seek-stronger\[tracing\]'"):
        async with running(make_app(tracing="on", ledger="off")):
            pass


async def test_a_protocol_that_is_not_spoken_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL is grpc"):
        async with running(make_app(tracing="on", ledger="off")):
            pass


@dataclass
class Collector:
    """What an OTLP/HTTP receiver was sent."""

    address: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)
    resources: list[Resource] = field(default_factory=list)
    spans: list[WireSpan] = field(default_factory=list)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            collector.paths.append(self.path)
            collector.headers.append(self.headers["x-collector-key"])
            for sent in ExportTraceServiceRequest.FromString(raw).resource_spans:
                collector.resources.append(sent.resource)
                for scope in sent.scope_spans:
                    collector.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    collector.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_collector_gets_the_trace_and_the_upstream_continues_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real exporter
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=abc")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-gateway")
        async with gateway(folder) as made:
            await made.ask(ESCALATED, {"traceparent": TRACEPARENT})
            sent = made.server.requests[0].headers["traceparent"]
    assert set(collector.paths) == {"/v1/traces"}
    assert set(collector.headers) == {"abc"}
    attributes = {each.key: each.value.string_value for each in collector.resources[0].attributes}
    assert attributes["service.name"] == "my-gateway"
    by_name = {span.name: span for span in collector.spans}
    request, call = by_name["POST /v1/chat/completions"], by_name["chat large"]
    assert {span.trace_id.hex() for span in collector.spans} == {CALLERS_TRACE}
    assert request.parent_span_id.hex() == CALLERS_SPAN
    assert {span.parent_span_id for span in collector.spans if span is not request} == {
        request.span_id
    }
    assert sent == f"00-{CALLERS_TRACE}-{call.span_id.hex()}-01"


async def test_a_collector_that_is_not_there_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with gateway(folder) as made:
        assert (await made.ask(ESCALATED)).status_code == 200
    assert SECRET not in caplog.text
