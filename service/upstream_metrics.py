"""What Prometheus sees of the upstreams. The label `upstream` is a configured name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.upstreams.health import HealthReport

STANDINGS = ("closed", "half_open", "open", "resting")
ENDS = ("ok", "failed", "cut", "given_up", "refused")


@runtime_checkable
class Reports(Protocol):
    """The part of `router.upstreams.pool.UpstreamPool` that is looked at."""

    def report(self) -> Sequence[HealthReport]: ...


def reports_of(upstream: object | None) -> Sequence[HealthReport]:
    """How the upstreams are doing; nothing where there are none."""
    return upstream.report() if isinstance(upstream, Reports) else ()


class UpstreamCollector(Collector):
    """Reads the pool at each scrape."""

    def __init__(self, upstream: object | None) -> None:
        self._upstream = upstream

    def collect(self) -> Iterable[Metric]:
        standing = GaugeMetricFamily(
            "router_upstream_breaker",
            "1 for the state that an upstream's breaker is in; resting: it asked to be left alone",
            labels=["upstream", "state"],
        )
        calls = CounterMetricFamily(
            "router_upstream_calls",
            "Attempts at an upstream by how they ended; refused: it was to be left alone",
            labels=["upstream", "result"],
        )
        transitions = CounterMetricFamily(
            "router_upstream_breaker_transitions",
            "Changes of an upstream's breaker, by the state it came to",
            labels=["upstream", "state"],
        )
        plain = {
            name: CounterMetricFamily(f"router_upstream_{name}", what, labels=["upstream"])
            for name, what in (
                ("retries", "Attempts that repeated one that failed"),
                ("hedges", "Calls made because another upstream was slow"),
                ("fallbacks", "Calls made because another upstream failed"),
                ("rests", "Times that an upstream asked to be left alone"),
            )
        }
        for report in reports_of(self._upstream):
            for state in STANDINGS:
                standing.add_metric([report.name, state], float(report.standing == state))
            for end in ENDS:
                calls.add_metric([report.name, end], report.calls.get(end, 0))
            for state in STANDINGS[:3]:
                transitions.add_metric([report.name, state], report.transitions.get(state, 0))
            for name, family in plain.items():
                family.add_metric([report.name], getattr(report, name))
        return [standing, calls, transitions, *plain.values()]
