"""The figures of `benchmarks.gateway` as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.gateway_servers import DIRECT, LITELLM, NAMES
from benchmarks.servers import OURS

Rounds = Sequence[Mapping[str, Any]]
ByServer = Mapping[str, Rounds]


def text(report: Mapping[str, Any]) -> Iterator[str]:
    """The whole report, line by line."""
    told = report["machine"]
    yield f"{report['command']}"
    yield (
        f"{told['physical_cores']} cores ({told['cpu']}), load before {told['load_before']:.1f}; "
        f"beside {report['peer']}; medians of {report['rounds']} rounds"
    )
    for part, table in _TABLES.items():
        if part in report["parts"]:
            yield ""
            yield from table(report["parts"][part])


def _latency(cells: Mapping[str, ByServer]) -> Iterator[str]:
    yield from _head(
        "1 client",
        "upstream p50 / p95 ms",
        "ours adds p50",
        "p95",
        "LiteLLM adds p50",
        "p95",
        "ours / its, p50",
        "p95",
    )
    for cell, servers in cells.items():
        direct = servers[DIRECT]
        added = {
            name: {
                percent: [its[percent] - own[percent] for its, own in zip(of, direct, strict=True)]
                for percent in ("p50", "p95")
            }
            for name, of in servers.items()
            if name != DIRECT
        }
        ours, its = added[OURS], added[LITELLM]
        yield _row(
            cell,
            f"{_of(direct, 'p50'):.2f} / {_of(direct, 'p95'):.2f}",
            *(f"{median(each[percent]):.2f}" for each in (ours, its) for percent in each),
            *(f"{_ratio(ours[percent], its[percent]):.2f}" for percent in ours),
        )


def _rate(cells: Mapping[str, ByServer]) -> Iterator[str]:
    yield from _head("load", "gateway", "answers/s", "p50 ms", "p95", "p99", "errors")
    for cell, servers in cells.items():
        for name, rounds in servers.items():
            percents = (f"{_of(rounds, percent):.2f}" for percent in ("p50", "p95", "p99"))
            yield _row(cell, name, f"{_of(rounds, 'rate'):.0f}", *percents, _errors(rounds))


def _throughput(cells: Mapping[str, ByServer]) -> Iterator[str]:
    yield from _head(
        "load",
        "ours, answers/s",
        "LiteLLM",
        "ours / its",
        "CPU ms an answer, ours",
        "its",
        "errors, ours",
        "its",
    )
    for cell, servers in cells.items():
        ours, its = servers[OURS], servers[LITELLM]
        ratio = _ratio([one["rate"] for one in ours], [one["rate"] for one in its])
        yield _row(
            cell,
            *(f"{_of(rounds, 'rate'):.0f}" for rounds in (ours, its)),
            f"{ratio:.2f}",
            *(f"{_of(rounds, 'cpu_ms'):.2f}" for rounds in (ours, its)),
            *(_errors(rounds) for rounds in (ours, its)),
        )


def _cache(cells: Mapping[str, ByServer]) -> Iterator[str]:
    yield from _head(
        "from Redis", "gateway", "p50 ms", "p95", "hits/s", "hits a second of CPU", "errors"
    )
    for cell, servers in cells.items():
        for name in NAMES:
            rounds = servers[name]
            yield _row(
                cell,
                name,
                f"{_of(rounds, 'p50'):.2f}",
                f"{_of(rounds, 'p95'):.2f}",
                f"{_of(rounds, 'rate'):.0f}",
                f"{1e3 / _of(rounds, 'cpu_ms'):.0f}",
                _errors(rounds),
            )


def _streams(found: Mapping[str, Any]) -> Iterator[str]:
    yield from _head("streams at once", "whole and identical", "errors", "p50 s", "p99 s", "MiB")
    memory = f"{found['rss_before'] / 2**20:.0f} before, {found['rss_after'] / 2**20:.0f} after"
    yield _row(
        str(found["streams"]),
        str(found["answers"]),
        _errors([found]),
        f"{found['p50'] / 1e3:.1f}",
        f"{found['p99'] / 1e3:.1f}",
        memory,
    )


_TABLES: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "latency": _latency,
    "rate": _rate,
    "throughput": _throughput,
    "cache": _cache,
    "streams": _streams,
}


def _of(rounds: Rounds, name: str) -> float:
    return float(median(one[name] for one in rounds))


def _ratio(ours: Sequence[float], its: Sequence[float]) -> float:
    """Median of the rounds' own ratios."""
    return median(one / other for one, other in zip(ours, its, strict=True))


def _errors(rounds: Rounds) -> str:
    """What came instead of answers in all rounds together."""
    counts: dict[str, int] = {}
    for one in rounds:
        for kind, n in one["errors"].items():
            counts[kind] = counts.get(kind, 0) + n
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "0"


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*("---" for _ in names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
