"""Starts the servers that benchmarks compare: the gateway, and two others on the same GGUF.

Peers are the stock `llama_cpp.server` and the C++ server in PyPI's `xllamacpp`. They live in an
environment of their own, .bench-venv, which the first run makes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from router.engine.local import usable_cores

FOLDER = Path(__file__).resolve().parent.parent
PEER_FOLDER = FOLDER / ".bench-venv"
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
START_SECONDS = 90
STOP_SECONDS = 15

OURS, XLLAMACPP, STOCK = "seek-stronger", "xllamacpp", "llama_cpp.server"
READY = {OURS: "/readyz", XLLAMACPP: "/health", STOCK: "/v1/models"}
"""The servers in their order, and the path at which each says 200 when it takes requests."""
REPLAYED = f"{OURS}, replayed"
"""Ours, its engine's process giving the first answer to all: none of these, for it is no rival."""
BARE = "bare FastAPI"
"""The web stack alone; no rival either."""


class ServerError(Exception):
    """A server could not be started, or did not answer as it should."""


@dataclass(frozen=True)
class Setup:
    """What every server is started with.

    Attributes
    ----------
    threads : threads that compute, for prompts and for answers.
    peer_python : a Python that has the peers; None where only ours is started.
    context : tokens of one request, prompt and answer together.
    slots : requests answered at once, where the server can do that; `STOCK` can't.
    options : more of `router serve`.
    """

    model: Path
    threads: int
    peer_python: Path | None
    context: int = 2048
    slots: int = 16
    options: str = ""

    def command(self, server: str, port: int, *, cache: bool = False) -> list[str]:
        """The command line that serves on `port`; ours with its cache of answers or without."""
        model, threads = str(self.model), self.threads
        if server == BARE:
            return [sys.executable, "-m", "benchmarks.bare_gateway", str(port)]
        if server in (OURS, REPLAYED):
            module = "router" if server == OURS else "benchmarks.replay_gateway"
            fixed = "--host 127.0.0.1 --ledger off --n-gpu-layers 0" + " --cache-size 0" * (
                not cache
            )
            options = f"{fixed} --slots {self.slots} --context {self.context} --threads {threads}"
            program = [sys.executable, "-m", module, "serve", "--model", model]
            return [*program, *f"{options} {self.options} --port {port}".split()]
        if self.peer_python is None:
            raise ServerError("there is no Python that has it")
        python = str(self.peer_python)
        if server == STOCK:
            # Else it cuts a streamed answer short when the next request comes.
            fixed = "--host 127.0.0.1 --n_gpu_layers 0 --interrupt_requests False"
            options = f"{fixed} --n_ctx {self.context} --port {port}"
            threading = f"--n_threads {threads} --n_threads_batch {threads}"
            return [python, "-m", STOCK, "--model", model, *f"{options} {threading}".split()]
        numbers = map(str, (port, threads, self.slots, self.context))
        return [python, "-c", _SERVE_XLLAMACPP, model, *numbers]


_SERVE_XLLAMACPP = """
import sys, threading, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.port, threads, slots, context = map(int, sys.argv[2:])
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, slots * context, 0
server = xllamacpp.Server(params)  # it listens on 127.0.0.1 unless told otherwise
threading.Event().wait()
"""

_SYSTEM_INFO = {
    "xllamacpp": "import xllamacpp as m; print(m.get_system_info())",
    "llama-cpp-python": "import llama_cpp as m; print(m.llama_print_system_info().decode())",
}


@dataclass(frozen=True)
class Server:
    """One that runs; `pid` is the process that was started, which may have children."""

    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def peer_python() -> Path:
    """Return the Python of the peers' own environment; make that first if it is not there.

    The stock server gets the engine build and the web stack that the gateway runs on.
    """
    ours = [f"{name}=={version(name)}" for name in ("fastapi", "starlette", "uvicorn")]
    engine = f"llama-cpp-python[server]=={version('llama-cpp-python')}"
    fixed = ["sse-starlette==3.7.0", "starlette-context==0.3.6", "xllamacpp==2026.10.11549"]
    wanted = [engine, *ours, *fixed]
    return environment(PEER_FOLDER, wanted, "compiling llama.cpp may take some minutes")


def environment(folder: Path, wanted: Sequence[str], note: str) -> Path:
    """Return the Python of the environment in `folder` that has the packages `wanted`, pip's words.

    It is made first if it is not there; `note` says why that takes a while.
    """
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(wanted):
        return python
    print(f"making {folder}; {note}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    (folder / ".gitignore").write_text("*\n")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)
    stamp.write_text(json.dumps(list(wanted)))
    return python


@contextlib.contextmanager
def running(server: str, setup: Setup, *, cache: bool = False) -> Iterator[Server]:
    """Run `server` on a free port of 127.0.0.1 as long as the block lasts.

    Entered once it takes requests. Raises ServerError when it does not come to that.
    """
    port = free_port()
    command = setup.command(server, port, cache=cache)
    with serving(server, command, port, READY.get(server, READY[OURS])) as started:
        yield started


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(
    name: str,
    command: Sequence[str],
    port: int,
    ready: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run `command`, which serves on `port` of 127.0.0.1, as long as the block lasts.

    Entered once it says 200 at the path `ready`. It runs in an empty folder and sees few variables
    of the caller's, so that it reads no router.toml, ROUTER_* or HOST and no key; `variables` are
    added. Raises ServerError when it does not become ready.
    """
    environment = {each: os.environ[each] for each in KEPT_VARIABLES if each in os.environ}
    environment["PYTHONPATH"] = str(FOLDER)  # ours is the code beside this
    environment |= variables or {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        except OSError as error:
            raise ServerError(f"does not start: {error}") from error
        try:
            started = Server(name, port, process.pid)
            if not _becomes_ready(process, started.url + ready):
                log.seek(0)
                printed = ["no output", *log.read().decode(errors="replace").strip().splitlines()]
                raise ServerError(f"does not start: {printed[-1].strip()}")
            yield started
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
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


def machine() -> dict[str, Any]:
    """What it runs on, and whether that is busy with other things."""
    file = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", file.read_text() if file.exists() else "")
    cpu = named[1] if named else platform.processor() or platform.machine()
    return {"cpu": cpu, "physical_cores": usable_cores(), "load_before": os.getloadavg()[0]}


def builds(servers: Iterable[str], peers: Path | None) -> dict[str, dict[str, Any]]:
    """Per server its `version`, and the CPU `features` that its llama.cpp was compiled for.

    `peers` is the Python that has the peers.
    """
    found = {}
    for server in servers:
        package = "xllamacpp" if server == XLLAMACPP else "llama-cpp-python"
        found[server] = _build(package, Path(sys.executable) if server == OURS else peers)
    if OURS in found:
        engine = found[OURS]["version"]
        found[OURS]["version"] = f"{version('seek-stronger')} on {engine}"
    return found


def _build(package: str, python: Path | None) -> dict[str, Any]:
    code = f"import importlib.metadata as i; print(i.version({package!r})); {_SYSTEM_INFO[package]}"
    command = [str(python or sys.executable), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    number, features = ["not usable", "", *done.stdout.strip().splitlines()][-2:]
    return {"version": f"{package} {number}", "features": re.findall(r"(\w+) = 1\b", features)}
