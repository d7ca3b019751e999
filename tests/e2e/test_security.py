"""One gateway full of secrets, and everything that goes wrong: nothing of them is seen anywhere.

Nor does it connect to anything that a request, or an upstream, names.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from router.account import Account
from router.config import Settings
from router.config_load import load_settings
from router.errors import UpstreamUnavailable
from router.keystore import KeyStore
from router.pipeline import build_pipeline
from service.access import Gate
from tests.e2e.conftest import Gateway
from tests.redis_server import RedisServer

UPSTREAM_KEY = "sk-upstream-" + secrets.token_hex(16)
REDIS_PASSWORD = "redis-" + secrets.token_hex(16)


class Canary(threading.Thread):
    """A server that nobody should ever connect to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.join(10)


class SpitefulUpstream(BaseHTTPRequestHandler):
    """Fails as its prompt says, and repeats the key it was sent wherever it can."""

    protocol_version = "HTTP/1.1"
    elsewhere = ""
    """Where it redirects to."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        how = str(body["messages"][-1]["content"])
        told = f"you sent {self.headers['Authorization']}"
        if how == "hang up":
            self.close_connection = True
        elif how == "redirect":
            self._answer(307, told, Location=f"{self.elsewhere}/{UPSTREAM_KEY}")
        elif how == "no json":
            self._answer(200, told)
        elif how == "no http":
            self.wfile.write(f"{told}\r\n\r\n".encode())
            self.close_connection = True
        else:
            self._answer(int(how), json.dumps({"error": {"message": told, "code": told}}))

    def do_GET(self) -> None:
        self._answer(401, f"you sent {self.headers['Authorization']}")

    def _answer(self, status: int, body: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@dataclass
class Stage:
    """The gateway, who may use it, and what was seen of it."""

    gateway: Gateway
    canary: Canary
    user: str
    admin: str
    revoked: str
    settings: Settings
    client: httpx.Client
    seen: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response:
        headers = {
            **({"Authorization": f"Bearer {key}"} if key else {}),
            **options.pop("headers", {}),
        }
        response = self.client.request(method, path, headers=headers, **options)
        self.seen.append(f"{response.headers}\n{response.text}")
        return response

    def ask(self, prompt: str, key: str = "", **fields: Any) -> httpx.Response:
        body = {
            "model": "remote",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 4,
            **fields,
        }
        return self.send("POST", "/v1/chat/completions", key or self.user, json=body)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("secrets")
    canary = Canary()
    canary.start()
    SpitefulUpstream.elsewhere = canary.url
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), SpitefulUpstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    redis.start()
    with Redis.from_url(redis.url) as connection:
        connection.config_set("requirepass", "another one")  # so that ours is refused
    store = KeyStore(folder / "keys.db")
    user, admin, revoked = (
        store.create(Account(name=name, requests_per_minute=100_000), admin=name == "admin")[0]
        for name in ("user", "admin", "revoked")
    )
    store.revoke("revoked")
    variables = {
        "UPSTREAM_API_KEY": UPSTREAM_KEY,
        "ROUTER_REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{redis.port}/0",
        "ROUTER_UPSTREAM": f"http://127.0.0.1:{upstream.server_port}/v1",
        "ROUTER_UPSTREAM_RETRIES": "1",
        "ROUTER_KEYS": str(store.path),
        "ROUTER_LOG_LEVEL": "debug",
        "ROUTER_CONTEXT": "512",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = load_settings()
        gateway = Gateway({}, folder / "log")
        gateway.start()
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        yield Stage(gateway, canary, user, admin, revoked, settings, client)
    if gateway.process is not None and gateway.process.poll() is None:
        gateway.stop()
    redis.stop()
    upstream.shutdown()
    upstream.server_close()
    canary.stop()


def test_nothing_named_in_a_request_is_connected_to(stage: Stage) -> None:
    url = stage.canary.url
    image = {"type": "image_url", "image_url": {"url": f"{url}/cat.png"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    messages = [{"role": "user", "content": content}]
    stage.ask("", model="auto", messages=messages)
    stage.ask("", model="local", messages=messages)
    stage.ask(f"Fetch {url}/page for me.", model="local")
    stage.ask("Hi", model=url)
    for name in ("upstream", "base_url", "api_base", "url", "callback", "webhook"):
        assert stage.ask("Hi", **{name: url}).status_code == 400
        assert stage.ask("Hi", router={name: url}).status_code == 400
    tool = {"type": "mcp", "server_label": "x", "server_url": url}
    assert stage.ask("Hi", tools=[tool]).status_code in (400, 502)
    for header in ("Host", "X-Forwarded-Host", "Referer", "X-Original-URL", "Forwarded"):
        stage.send("GET", "/v1/models", stage.user, headers={header: url.removeprefix("http://")})
    assert stage.ask("redirect").status_code == 502
    assert stage.canary.visits == 0


def test_a_request_for_another_server_is_not_passed_on(stage: Stage) -> None:
    place = httpx.URL(stage.gateway.url)
    with socket.create_connection((place.host, place.port), 10) as connection:
        head = (
            f"GET {stage.canary.url}/v1/models HTTP/1.1\r\nHost: {stage.canary.url[7:]}\r\n"
            f"Authorization: Bearer {stage.user}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"")
    assert stage.canary.visits == 0


HOW = ("400", "401", "403", "404", "429", "500", "503", "redirect", "no json", "no http", "hang up")


def test_no_secret_is_seen_whatever_goes_wrong(stage: Stage) -> None:
    for how in HOW:
        for stream in (False, True):
            assert stage.ask(how, stream=stream).status_code >= 400
    local = stage.ask("Say hello.", model="local")
    assert local.status_code == 200
    typo = stage.admin[:-1] + ("x" if stage.admin[-1] != "x" else "y")
    for key in (stage.revoked, typo, UPSTREAM_KEY, REDIS_PASSWORD):
        assert stage.ask("Say hello.", key).status_code == 401
        for scheme in ("Basic", "Token", ""):
            headers = {"Authorization": f"{scheme} {key}".strip()}
            assert stage.send("GET", "/v1/models", headers=headers).status_code == 401
        assert stage.send("GET", f"/v1/models?api_key={key}", stage.user).status_code == 200
    assert stage.ask("Say hello.", stage.user, temperature="hot").status_code == 400
    for method, path in (
        ("POST", "/v1/route"),
        ("POST", "/v1/feedback"),
        ("POST", "/v1/calibration/reload"),
        ("GET", "/v1/calibration"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/readyz"),
        ("DELETE", "/v1/cache"),
        ("GET", "/nowhere"),
    ):
        for key in (stage.user, stage.admin):
            stage.send(method, path, key)
    metrics = stage.send("GET", "/metrics", stage.admin).text
    for fault in ("router_cache_errors_total", "router_limit_errors_total"):
        counted = re.findall(rf"^{fault}\S* (\d+)", metrics, re.M)
        assert sum(map(int, counted)) > 0, "Redis was expected to fail"
    assert stage.gateway.stop() == 0
    everywhere = {
        "an answer": "\n".join(stage.seen),
        "the log": stage.gateway.log.read_text(),
        "the list of keys": _list(stage),
    }
    known = {
        "the upstream's key": UPSTREAM_KEY,
        "Redis' password": REDIS_PASSWORD,
        "a user's key": stage.user,
        "the admin's key": stage.admin,
        "a revoked key": stage.revoked,
        "a mistyped key": typo,
    }
    assert '"status": 401' in everywhere["the log"]
    for place, text in everywhere.items():
        for name, secret in known.items():
            assert secret not in text, f"{name} is in {place}"
            assert secret[-20:] not in text, f"part of {name} is in {place}"


def test_no_secret_is_in_a_repr(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_API_KEY", UPSTREAM_KEY)
    pipeline = build_pipeline(stage.settings)
    gate = Gate(stage.settings)
    things = (stage.settings, pipeline, pipeline.upstream, gate, vars(gate), KeyStore().all())
    shown = "".join(f"{thing!r}{thing!s}" for thing in things)
    for secret in (UPSTREAM_KEY, REDIS_PASSWORD, stage.user, stage.admin):
        assert secret not in shown


async def test_an_upstream_that_can_not_show_who_it_is_is_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.which("openssl")
    assert program is not None, "this test needs openssl; install it, on Debian with apt"
    command = f"{program} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    names = "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key -out certificate"
    subprocess.run(
        [*command.split(), *names.split()], check=True, cwd=tmp_path, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("UPSTREAM_API_KEY", UPSTREAM_KEY)
    settings = Settings(upstream=f"https://127.0.0.1:{port}/v1", upstream_retries=0)
    upstream = build_pipeline(settings).upstream
    assert upstream is not None
    try:
        with pytest.raises(UpstreamUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await upstream.chat({"messages": [{"role": "user", "content": "Hi"}]})
    finally:
        await upstream.close()
        server.close()
        await server.wait_closed()
    assert heard in ([], [b""])


def _list(stage: Stage) -> str:
    command = [sys.executable, "-m", "router", "keys", "list", "--json"]
    done = subprocess.run(
        [*command, "--keys", stage.settings.keys],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(stage.settings.keys).parent,
    )
    assert "user" in done.stdout
    return done.stdout + done.stderr
