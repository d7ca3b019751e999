"""What Prometheus sees. Every label has a small, fixed set of values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from router.answer import Answer, Usage
from router.budget import Standing
from router.engine.messages import EngineStats
from router.ledger import Label
from router.live_watch import LiveReport
from service.replies import STAGES, CacheStatus

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TENTHS = tuple(i / 10 for i in range(1, 11))


class Metrics:
    """One gateway's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "router_requests", "HTTP requests", ["endpoint", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "router_request_seconds",
            "Time from a request's first byte to its answer's last",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.answers = Counter(
            "router_answers",
            "Answers given, by where they came from and why",
            ["route", "reason", "degraded"],
            registry=registry,
        )
        self.p_correct = Histogram(
            "router_p_correct",
            "Calibrated probability that the local answer is correct, of answers newly made",
            ["route"],
            buckets=_TENTHS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "router_stage_seconds",
            "Time that each stage of an answer newly made took; one left out is not counted",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "router_time_to_first_token_seconds",
            "Time until a streamed answer's first piece, by who wrote it",
            ["leg"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "router_tokens", "Tokens read and written", ["leg", "kind"], registry=registry
        )
        self.cost_usd = Counter("router_cost_usd", "Paid to the upstream", registry=registry)
        self.saved_usd = Counter(
            "router_saved_usd", "Not paid to the upstream, because of routing", registry=registry
        )
        self.cache_lookups = Counter(
            "router_cache_lookups",
            "Answers by what the cache had; shared: joined an identical request under way",
            ["result"],
            registry=registry,
        )
        self.cache_errors = Counter(
            "router_cache_errors", "Faults of the cache", ["operation"], registry=registry
        )
        self.limit_errors = Counter(
            "router_limit_errors",
            "Faults of the Redis that counts rate limits; meanwhile each gateway counts alone",
            registry=registry,
        )
        self.calibration_reloads = Counter(
            "router_calibration_reloads",
            "Calibrations taken over while running: ok, unchanged, or failed",
            ["result"],
            registry=registry,
        )
        self.streams_cut = Counter(
            "router_streams_cut", "Streams that ended with an error", registry=registry
        )
        self.labels = Counter(
            "router_labels",
            "Local answers found right or wrong, by who told",
            ["source", "correct"],
            registry=registry,
        )
        self.audits = Counter(
            "router_audits",
            "Kept answers that the upstream was asked about too, by what came of it",
            ["result"],
            registry=registry,
        )
        self.audit_cost_usd = Counter(
            "router_audit_cost_usd", "Paid to the upstream for audits", registry=registry
        )
        self.ledger_errors = Counter(
            "router_ledger_errors",
            "Faults of the ledger; overflow: entries lost because it was too slow",
            ["operation"],
            registry=registry,
        )
        self.drift_alarm = Gauge(
            "router_drift_alarm",
            "1 once a test for drift raised an alarm",
            ["test"],
            registry=registry,
        )
        self.drift_evidence = Gauge(
            "router_drift_evidence",
            "Evidence for drift: log10 of the test's wealth, 0 = none",
            ["test"],
            registry=registry,
        )
        self.controller_threshold = Gauge(
            "router_controller_threshold",
            "Threshold by which a budget is held at present; NaN where none is",
            registry=registry,
        )
        self.controller_ratio = Gauge(
            "router_controller_ratio",
            "Share of queries escalated so far, or USD a query, where a budget is held; else NaN",
            registry=registry,
        )
        self.budget_usd = Gauge(
            "router_budget_usd",
            "The whole gateway's budgets: limit, spent, reserved for calls under way, left",
            ["scope", "what"],
            registry=registry,
        )
        self.engine_up = Gauge("router_engine_up", "1 if the engine runs", registry=registry)
        self.engine = Gauge(
            "router_engine",
            "The local engine: requests active and waiting, slots, restarts; wait_seconds that the "
            "next one is expected to wait; breaker_open is 1 while it is left alone after several "
            "crashes",
            ["what"],
            registry=registry,
        )
        self.engine_tokens = Gauge(
            "router_engine_tokens",
            "Since the engine started: tokens read and written, found in its cache, guessed, right",
            ["what"],
            registry=registry,
        )
        self.engine_refused = Gauge(
            "router_engine_refused",
            "Since the engine started: requests not let in, because its queue was full or too slow",
            ["reason"],
            registry=registry,
        )
        self.engine_seconds = Gauge(
            "router_engine_seconds",
            "Since the engine started: where the time of its steps went",
            ["part"],
            registry=registry,
        )

        # Asked of every answer, and a metric would look its label up under a lock each time.
        self._requests = cache(self.requests.labels)
        self._request_seconds = cache(self.request_seconds.labels)
        self._answers = cache(self.answers.labels)
        self._cache_lookups = cache(self.cache_lookups.labels)
        self._p_correct = cache(self.p_correct.labels)
        self._stage_seconds = cache(self.stage_seconds.labels)
        self._tokens = cache(self.tokens.labels)

    def requested(self, endpoint: str, status: int, seconds: float) -> None:
        """Count one request that is over."""
        self._requests(endpoint, str(status)).inc()
        self._request_seconds(endpoint).observe(seconds)

    def answered(self, answer: Answer, cache: CacheStatus, *, fresh: bool) -> None:
        """Count one answer given; `fresh` if it was made for this request alone."""
        decision = answer.decision
        degraded = "true" if decision.degraded else "false"
        self._answers(decision.route, decision.reason, degraded).inc()
        self._cache_lookups("shared" if cache == "miss" and not fresh else cache).inc()
        self.saved_usd.inc(max(0.0, answer.saved_usd))
        if fresh:
            self.worked(answer)

    def worked(self, answer: Answer) -> None:
        """Count what an answer newly made took, whether it was given or only decided on."""
        decision = answer.decision
        self.cost_usd.inc(max(0.0, answer.cost_usd))
        if decision.p_correct is not None and not math.isnan(decision.p_correct):
            self._p_correct(decision.route).observe(decision.p_correct)
        for stage in STAGES:
            if (took := answer.timings_ms.get(stage, 0.0)) > 0:
                self._stage_seconds(stage).observe(took / 1000)
        self._count_tokens("local", answer.usage_local)
        self._count_tokens("remote", answer.usage_remote)

    def first_piece(self, leg: str, seconds: float) -> None:
        """Count a streamed answer that began; `leg` is ``local`` or ``remote``."""
        self.first_token_seconds.labels(leg).observe(seconds)

    def cache_fault(self, operation: str) -> None:
        """Count a fault of the cache: ``get``, ``put`` or ``decode``."""
        self.cache_errors.labels(operation).inc()

    def labelled(self, label: Label) -> None:
        """Count a label that is new or has changed."""
        self.labels.labels(label.source, "true" if label.correct else "false").inc()

    def observe_engine(self, alive: bool, stats: EngineStats | None) -> None:
        """Take in the engine's load; None leaves the last one known."""
        self.engine_up.set(1 if alive else 0)
        if stats is not None:
            self.engine.labels("active").set(stats.active)
            self.engine.labels("waiting").set(stats.waiting)
            self.engine.labels("slots").set(stats.n_slots)
            self.engine.labels("restarts").set(stats.restarts)
            self.engine_tokens.labels("read").set(stats.prefilled_tokens)
            self.engine_tokens.labels("written").set(stats.decoded_tokens)
            for name, value in stats.extra.items():
                if name in ("reused", "guessed", "accepted"):
                    self.engine_tokens.labels(name).set(value)
                elif name in ("breaker_open", "wait_seconds"):
                    self.engine.labels(name).set(value)
                elif name.startswith("refused_"):
                    self.engine_refused.labels(name.removeprefix("refused_")).set(value)
                elif name.startswith("seconds_"):
                    self.engine_seconds.labels(name.removeprefix("seconds_")).set(value)

    def observe_live(self, live: LiveReport | None) -> None:
        """Take in where live traffic stands."""
        control = None if live is None else live.control
        self.controller_threshold.set(math.nan if control is None else control.threshold)
        ratio = None if control is None else control.ratio
        self.controller_ratio.set(math.nan if ratio is None else ratio)
        tests = {} if live is None else {"scores": live.scores, "calibration": live.labels}
        for test, seen in tests.items():
            if seen is not None:
                self.drift_alarm.labels(test).set(1 if seen.alarm else 0)
                self.drift_evidence.labels(test).set(seen.log10_evidence)

    def observe_budgets(self, standings: Iterable[Standing]) -> None:
        """Take in where the gateway's limits stand."""
        for each in standings:
            self.budget_usd.labels(each.limit, "limit").set(each.usd)
            self.budget_usd.labels(each.limit, "spent").set(each.spent)
            self.budget_usd.labels(each.limit, "reserved").set(each.reserved)
            self.budget_usd.labels(each.limit, "left").set(each.left)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _count_tokens(self, leg: str, usage: Usage | None) -> None:
        if usage is not None:
            self._tokens(leg, "prompt").inc(usage.prompt_tokens)
            self._tokens(leg, "completion").inc(usage.completion_tokens)
