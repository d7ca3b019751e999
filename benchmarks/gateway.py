"""What the gateway itself costs, beside LiteLLM's proxy, in one run.

    .venv/bin/python -m benchmarks.gateway             # 5 rounds, about 6 minutes
    .venv/bin/python -m benchmarks.gateway --quick     # 1 round, about a minute and a half
    .venv/bin/python -m benchmarks.gateway --soak 20   # minutes at half of the throughput

Both gateways pass requests on to one mock upstream that answers at once, over HTTP on loopback, and
both run one worker. LiteLLM lives in an environment of its own, .bench-litellm, which the first run
makes; it sees no key. All servers of a part run at the same time, and are put under load one after
the other, in each round anew, after a warm-up that is not counted. Answers are checked: what is not
the upstream's answer, word for word, counts as an error and not as an answer.

Parts:

latency     one client: the model `remote`, and `auto` with a tool, which our small model can't use,
            so that it is passed on by `capability`. Added is what it takes beyond the upstream's
            own, asked directly.
rate        200 requests a second at random moments, however slow the answers are.
throughput  16 and 64 clients that ask again once they are answered, in one piece and streamed.
cache       answers kept in a real Redis: one client, and 16.
streams     1,000 streams at once through ours, a word every half second.

CPU time is that of all of a gateway's processes; ours include the engine's, which idles. Memory is
that of the gateway's own process. Printed are medians over the rounds; a ratio is the median of the
rounds' own, which cancels the machine's drift.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import gateway_soak
from benchmarks.gateway_load import Load, Outcome, run
from benchmarks.gateway_servers import DIRECT, NAMES, PEER, asked, gateway, redis, upstream
from benchmarks.gateway_table import text
from benchmarks.processes import resident_bytes, tree_cpu_seconds
from benchmarks.servers import OURS, Server, ServerError, machine

PARTS = ("latency", "rate", "throughput", "cache", "streams")
RATE = 200.0
N_STREAMS = 1000
STREAM_PAUSE = 0.5
QUESTIONS = 64
"""Different ones that the caches are asked."""

Figures = dict[str, Any]
Cells = Mapping[str, Load]

_numbers = count(0, 10_000_000)
"""No two loads ask the same questions, unless they are to."""


def latency_cells(seconds: float) -> Cells:
    one = Load(0, seconds=seconds)
    return {"remote": one, "auto, a tool": replace(one, model="auto", tools=True)}


def rate_cells(seconds: float) -> Cells:
    return {f"{RATE:g}/s": Load(0, rate=RATE, clients=8, seconds=2 * seconds)}


def throughput_cells(seconds: float) -> Cells:
    return {
        f"{clients} clients{', streams' * stream}": Load(
            0, clients=clients, stream=stream, seconds=seconds
        )
        for stream in (False, True)
        for clients in (16, 64)
    }


def cache_cells(seconds: float) -> Cells:
    return {
        f"{clients} client{'s' * (clients > 1)}": Load(
            0, clients=clients, seconds=seconds, different=QUESTIONS
        )
        for clients in (1, 16)
    }


def measure(server: Server, load: Load, first: int | None = None) -> Figures:
    """Put `server` under `load`; its questions begin at `first`, or are new."""
    number = next(_numbers) if first is None else first
    before = tree_cpu_seconds(server.pid)
    outcome = run(replace(load, port=server.port, first=number))
    used = tree_cpu_seconds(server.pid) - before
    return figures(outcome) | {"cpu_ms": 1e3 * used / max(1, len(outcome.latencies))}


def figures(outcome: Outcome) -> Figures:
    return {
        "p50": outcome.ms(50),
        "p95": outcome.ms(95),
        "p99": outcome.ms(99),
        "rate": outcome.rate,
        "answers": len(outcome.latencies),
        "errors": outcome.errors,
    }


def remote_round(servers: Sequence[Server], part: str, seconds: float) -> Figures:
    """One round of a part that passes everything on: by cell, by server."""
    makers = {"latency": latency_cells, "rate": rate_cells, "throughput": throughput_cells}
    found: Figures = {}
    for cell, load in makers[part](seconds).items():
        found[cell] = {}
        for server in servers:
            if server.name != DIRECT or part == "latency":
                found[cell][server.name] = measure(server, load)
                _progress(cell, server, found[cell][server.name])
    return found


def cache_round(servers: Sequence[Server], behind: Server, seconds: float) -> Figures:
    """One round of answers from the caches. Raises ServerError when the upstream was asked."""
    found: Figures = {}
    for cell, load in cache_cells(seconds).items():
        found[cell] = {}
        for server in servers:
            before = asked(behind)
            found[cell][server.name] = measure(server, load, first=0)
            if asked(behind) != before:
                raise ServerError(f"{server.name} asked the upstream for what its cache has")
            _progress(cell, server, found[cell][server.name])
    return found


def many_streams(n: int) -> Figures:
    """`n` streams at once through ours."""
    with upstream(pause=STREAM_PAUSE) as behind, gateway(OURS, behind) as ours:
        measure(ours, Load(0, clients=8, most=200))
        before = resident_bytes(ours.pid)
        found = measure(ours, Load(0, stream=True, clients=n, most=n))
        rss = {"rss_before": before, "rss_after": resident_bytes(ours.pid), "streams": n}
        _progress(f"{n} streams", ours, found)
        return found | rss


@contextlib.contextmanager
def both(behind: Server, *, redis_port: int | None = None) -> Iterator[list[Server]]:
    """Run both gateways; each has answered some requests."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(gateway(name, behind, redis_port=redis_port)) for name in NAMES
        ]
        for server in servers:
            same = redis_port is not None
            for stream in (False, True):
                warm = Load(0, clients=8, most=400, stream=stream, different=QUESTIONS * same)
                errors = measure(server, warm, first=0 if same else None)["errors"]
                if errors:
                    raise ServerError(f"{server.name} does not answer: {errors}")
        yield servers


def benchmark(parts: Sequence[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Run the parts; by part, cell and server the rounds' figures."""
    found: dict[str, Any] = {}
    passing = [part for part in parts if part in ("latency", "rate", "throughput")]
    if passing:
        with upstream() as behind, both(behind) as servers:
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}", file=sys.stderr)
                for part in passing:
                    _add(
                        found.setdefault(part, {}), remote_round([behind, *servers], part, seconds)
                    )
    if "cache" in parts:
        with redis() as port, upstream() as behind, both(behind, redis_port=port) as servers:
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}: cache", file=sys.stderr)
                _add(found.setdefault("cache", {}), cache_round(servers, behind, seconds))
    if "streams" in parts:
        found["streams"] = many_streams(N_STREAMS)
    return found


def _add(to: dict[str, Any], found: Figures) -> None:
    for cell, by_server in found.items():
        for server, each in by_server.items():
            to.setdefault(cell, {}).setdefault(server, []).append(each)


def _progress(cell: str, server: Server, found: Figures) -> None:
    print(
        f"  {cell:<20}{server.name:<15}{found['rate']:>7.0f}/s  p50 {found['p50']:.2f}  "
        f"p95 {found['p95']:.2f} ms  CPU {found['cpu_ms']:.2f} ms  {found['errors'] or ''}",
        file=sys.stderr,
    )


def allow_connections(n: int) -> None:
    """Let this process and those it starts hold so many open. Raises ServerError if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise ServerError(f"only {hard} open files are allowed; raise `ulimit -Hn` to {n}")
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


def main(arguments: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then too
    options = _parser().parse_args(arguments)
    given = list(sys.argv[1:] if arguments is None else arguments)
    rounds = options.rounds or (1 if options.quick else 5)
    report: dict[str, Any] = {
        "command": shlex.join([".venv/bin/python", "-m", "benchmarks.gateway", *given]),
        "machine": machine(),
        "peer": PEER,
        "rounds": rounds,
    }
    try:
        allow_connections(4 * N_STREAMS)
        if options.soak is not None:
            soaked = gateway_soak.soak(options.soak)
            print(soaked.summary())
            return 0 if soaked.passed else 1
        report["parts"] = benchmark(options.parts, rounds, options.seconds)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"a load could not be carried out: {error.stderr}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(text(report)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="1 round")
    add("--rounds", type=int, help="default 5, with --quick 1")
    add("--seconds", type=float, default=2.0, help="of each load; default %(default)s")
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--soak", type=float, nargs="?", const=20.0, metavar="MINUTES", help="default 20")
    return parser


if __name__ == "__main__":
    sys.exit(main())
