"""Starts the gateways that are compared, their upstream and their Redis, all on loopback."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.servers import FOLDER, OURS, Server, ServerError, environment, free_port, serving

LITELLM = "LiteLLM"
DIRECT = "upstream"
NAMES = (OURS, LITELLM)

PEER_FOLDER = FOLDER / ".bench-litellm"
PEER = "litellm[proxy]==1.80.0"
"""Never 1.82.7, 1.82.8 or 1.107.0: those releases stole credentials."""

_SETTLED = ("uvicorn==0.29.0", "uvloop==0.21.0", "aiohttp==3.14.5", "redis==8.1.0")
"""What matters for its speed, in the releases that were measured; it allows no newer uvicorn."""


def peer_python() -> Path:
    """Return the Python of LiteLLM's own environment; make that first if it is not there."""
    return environment(PEER_FOLDER, [PEER, *_SETTLED], "installing LiteLLM takes some minutes")


@contextlib.contextmanager
def upstream(*, pause: float = 0.0) -> Iterator[Server]:
    """Run the mock upstream; it waits `pause` seconds before each word of a stream."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway_upstream", str(port), str(pause)]
    with serving(DIRECT, command, port, "/asked") as started:
        yield started


def asked(of: Server) -> int:
    """How many answers the mock upstream has begun."""
    count: int = httpx.get(f"{of.url}/asked", trust_env=False).json()
    return count


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """Run a Redis that keeps nothing on disk; give its port. Raises ServerError without one."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServerError("there is no redis-server; install Redis, or leave out the part `cache`")
    port = free_port()
    options = f"--port {port} --bind 127.0.0.1 --appendonly no --daemonize no"
    with tempfile.TemporaryDirectory() as folder:
        command = [program, *options.split(), "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield port
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ServerError(f"redis-server does not start: {error}") from error
            time.sleep(0.05)
        else:
            return


@contextlib.contextmanager
def gateway(name: str, behind: Server, *, redis_port: int | None = None) -> Iterator[Server]:
    """Run a gateway that asks `behind`; with a Redis as its cache, if it is to have one.

    Ours is as it is served by default, with its ledger, its log and its cache in memory. LiteLLM is
    as its documentation advises for production: one worker, logging errors only, without a
    database. Neither needs a key, and neither is given one.
    """
    start = _ours if name == OURS else _litellm
    with start(behind, redis_port) as started:
        yield started


@contextlib.contextmanager
def _ours(behind: Server, redis_port: int | None) -> Iterator[Server]:
    port = free_port()
    options = f"--host 127.0.0.1 --port {port} --upstream {behind.url}/v1 --upstream-model mock"
    if redis_port is not None:
        options += f" --redis-url redis://127.0.0.1:{redis_port}"
    command = [sys.executable, "-m", "router", "serve", *options.split()]
    with (
        tempfile.TemporaryDirectory() as home,
        serving(OURS, command, port, "/readyz", {"HOME": home}) as started,
    ):
        yield started


@contextlib.contextmanager
def _litellm(behind: Server, redis_port: int | None) -> Iterator[Server]:
    port = free_port()
    asks = {"model": "openai/mock", "api_base": f"{behind.url}/v1", "api_key": "none"}
    models = [{"model_name": name, "litellm_params": asks} for name in ("remote", "auto")]
    settings: dict[str, object] = {"request_timeout": 600, "set_verbose": False}
    if redis_port is not None:
        cache = {"type": "redis", "host": "127.0.0.1", "port": redis_port, "ttl": 3600}
        settings |= {"cache": True, "cache_params": cache}
    with tempfile.TemporaryDirectory() as home:
        config = Path(home) / "config.yaml"  # JSON is YAML
        config.write_text(json.dumps({"model_list": models, "litellm_settings": settings}))
        program = "from litellm import run_server; run_server()"
        options = f"--host 127.0.0.1 --port {port} --num_workers 1 --config {config}"
        variables = {
            "HOME": home,
            "PYTHONPATH": "",
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks GitHub for prices
        }
        command = [str(peer_python()), "-c", program, *options.split()]
        with serving(LITELLM, command, port, "/health/liveliness", variables) as started:
            yield started
