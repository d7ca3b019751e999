"""What every answer tells browsers, which pages may ask, and what a body may be."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from router.account import Account
from router.keystore import KeyStore
from service import parse
from service.hardening import DOCS_POLICY, PAGE_POLICY, harden
from tests.service.scripted import QUESTION, client_of, make_app, running, serving

CHAT = "/v1/chat/completions"
APP = "https://app.example"


class TestHeaders:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "/healthz"), ("GET", "/v1/models"), ("GET", "/none"), ("POST", CHAT)],
    )
    async def test_on_every_answer(self, method: str, path: str) -> None:
        async with client_of() as client:
            response = await client.request(method, path)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"

    async def test_on_an_internal_error_too(self) -> None:
        app = make_app()

        @app.get("/broken")
        async def broken() -> None:
            raise ZeroDivisionError

        async with running(app) as client:
            response = await client.get("/broken")
        assert response.status_code == 500
        assert response.headers["x-content-type-options"] == "nosniff"

    @pytest.mark.parametrize("stream", [False, True])
    async def test_what_a_key_was_answered_is_kept_by_nobody(
        self, tmp_path: Path, stream: bool
    ) -> None:
        store = KeyStore(tmp_path / "keys.db")
        key, _ = store.create(Account(name="alice"))
        async with client_of(keys=str(store.path)) as client:
            response = await client.post(
                CHAT,
                json={**QUESTION, "stream": stream},
                headers={"Authorization": f"Bearer {key}"},
            )
        assert response.status_code == 200
        assert response.headers.get_list("cache-control") == ["no-store"]

    async def test_a_page_runs_no_script_from_elsewhere_and_in_no_frame(self) -> None:
        async with client_of() as client:
            docs = await client.get("/docs")
        assert docs.headers["content-security-policy"] == DOCS_POLICY
        assert "frame-ancestors 'none'" in DOCS_POLICY
        for host in ("https://cdn.jsdelivr.net", "https://fastapi.tiangolo.com"):
            assert host in docs.text
            assert host in DOCS_POLICY

    def test_a_page_may_have_a_stricter_policy_of_its_own(self) -> None:
        page = [(b"content-type", b"text/html; charset=utf-8")]
        harden(page, "/dashboard", keyed=False)
        assert (b"content-security-policy", PAGE_POLICY.encode()) in page
        strict = [(b"content-type", b"text/html"), (b"content-security-policy", b"default-src x")]
        harden(strict, "/dashboard", keyed=False)
        assert [value for name, value in strict if name == b"content-security-policy"] == [
            b"default-src x"
        ]


class TestCors:
    async def test_none_by_default(self) -> None:
        async with client_of() as client:
            response = await client.options(
                CHAT, headers={"Origin": APP, "Access-Control-Request-Method": "POST"}
            )
            assert response.status_code == 403
            assert not any(name.startswith("access-control") for name in response.headers)

    async def test_a_named_page_may_ask_and_read(self, tmp_path: Path) -> None:
        store = KeyStore(tmp_path / "keys.db")
        key, _ = store.create(Account(name="alice"))
        async with client_of(keys=str(store.path), cors_origins=APP) as client:
            preflight = await client.options(
                CHAT,
                headers={
                    "Origin": APP,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization, x-stainless-os",
                },
            )
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == APP
            assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
            headers = {"Origin": APP, "Authorization": f"Bearer {key}"}
            response = await client.post(CHAT, json=QUESTION, headers=headers)
            assert response.headers["access-control-allow-origin"] == APP
            assert "access-control-allow-credentials" not in response.headers
            assert "X-Router-Route" in response.headers["access-control-expose-headers"]
            refused = await client.post(CHAT, json=QUESTION, headers={"Origin": APP})
            assert refused.status_code == 401
            assert refused.headers["access-control-allow-origin"] == APP  # so the page sees why

    async def test_another_page_may_not(self) -> None:
        async with client_of(cors_origins=APP) as client:
            preflight = await client.options(
                CHAT, headers={"Origin": f"{APP}.evil", "Access-Control-Request-Method": "POST"}
            )
            assert preflight.status_code == 400
            assert "access-control-allow-origin" not in preflight.headers


class TestBodies:
    def exchange(self, address: str, sent: bytes, *, more: bytes = b"", wait: float = 0) -> bytes:
        parts = urlsplit(address)
        with socket.create_connection((parts.hostname, parts.port), 10) as connection:
            connection.sendall(sent)
            if more:
                time.sleep(wait)
                connection.sendall(more)
            received = b""
            while piece := connection.recv(65536):
                received += piece
                if b'"code":' in received:
                    break
        return received

    def head(self, address: str, *fields: str) -> bytes:
        lines = [f"POST {CHAT} HTTP/1.1", f"Host: {urlsplit(address).netloc}", *fields]
        return "\r\n".join([*lines, "Content-Type: application/json", "", ""]).encode()

    def test_one_that_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parse, "BODY_SECONDS", 0.2)
        with serving(make_app()) as address:
            received = self.exchange(address, self.head(address, "Content-Length: 50") + b"{")
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in received.lower()
        assert b'"request_timeout"' in received

    def test_one_that_says_it_is_too_large_is_not_read(self) -> None:
        with serving(make_app()) as address:
            length = f"Content-Length: {parse.MAX_BODY_BYTES + 1}"
            received = self.exchange(address, self.head(address, length))
        assert received.startswith(b"HTTP/1.1 413 ")

    def test_one_that_breaks_off_is_nobodys_error(self, caplog: pytest.LogCaptureFixture) -> None:
        with serving(make_app()) as address:
            parts = urlsplit(address)
            with socket.create_connection((parts.hostname, parts.port), 10) as connection:
                connection.sendall(self.head(address, "Content-Length: 50") + b"{")
                time.sleep(0.1)
            deadline = time.monotonic() + 10
            while "request" not in caplog.messages:
                assert time.monotonic() < deadline, "no line in the log"
                time.sleep(0.01)
        assert "internal error" not in caplog.messages


async def test_a_body_in_small_pieces_is_fine() -> None:
    data = json.dumps(QUESTION).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 5):
            yield data[start : start + 5]
            await asyncio.sleep(0)

    async with client_of() as client:
        response = await client.post(
            CHAT, content=pieces(), headers={"Content-Type": "application/json"}
        )
    assert response.status_code == 200
