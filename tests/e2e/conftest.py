"""The real thing: `router serve` as processes, the real model, a second one as upstream, Redis."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.redis_server import RedisServer


@dataclass
class Gateway:
    """One `router serve` process."""

    options: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    _port: str = field(default="0")

    def start(self) -> None:
        """Start it (on the port it had before, if any) and wait until it is ready."""
        # Threads that wait for each other nearly stand still where other tests want the cores.
        options = {"threads": "1", **self.options}
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "router", "serve", "--port", self._port, *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
            )
        for _ in range(600):
            found = re.findall(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())
            if found and self._is_ready(found[-1]):
                self._port, self.url = found[-1], f"http://127.0.0.1:{found[-1]}"
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the gateway did not start:\n{self.log.read_text()}")

    def _is_ready(self, port: str) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()  # or it would trouble the tests that follow
            raise

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def engine_pid(self) -> int:
        """Process id of the engine's process, a child of this one."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def metric(self, name: str, label: str = "") -> float:
        """Sum of the samples of the metric `name` whose labels hold `label`."""
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        samples = [
            line.rsplit(" ", 1) for line in lines if line.startswith((f"{name}{{", f"{name} "))
        ]
        return sum(float(value) for labels, value in samples if label in labels)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A second instance of the service; the first one asks its local model."""
    gateway = Gateway({"context": "2048"}, tmp_path_factory.mktemp("upstream") / "log")
    gateway.start()
    yield gateway
    if gateway.process is not None and gateway.process.poll() is None:
        gateway.stop()


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: Gateway, redis: RedisServer
) -> Iterator[Gateway]:
    """The service under test, with the calibration that ships."""
    options = {
        "upstream": upstream.url + "/v1",
        "upstream-model": "local",
        "upstream-price-in": "1",
        "upstream-price-out": "4",
        "upstream-connect-timeout": "2",
        "redis-url": redis.url,
        "context": "1024",
        "slots": "8",
        "queue": "16",
    }
    gateway = Gateway(options, tmp_path_factory.mktemp("gateway") / "log")
    gateway.start()
    yield gateway
    assert gateway.process is not None
    if gateway.process.poll() is None:
        gateway.stop()
    assert "Traceback" not in gateway.log.read_text()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
