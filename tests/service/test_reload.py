"""POST /v1/calibration/reload: who may ask, what it tells, and what happens to the cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from calibration.errors import ArtifactError
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    QUESTION,
    ScriptedCalibration,
    ScriptedPipeline,
    client_of,
    make_app,
)
from tests.service.test_gateway import ask, gateway_of, query

URL = "/v1/calibration/reload"
NEW = ScriptedCalibration("sha256:beef")
ANSWER = replace(LOCAL, decision=replace(CONFIDENT, calibration=NEW.id))


@asynccontextmanager
async def client_from(
    host: Any, pipeline: ScriptedPipeline | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose connection comes from the address `host`, of a gateway without API keys."""
    app = make_app(pipeline, auth="off")
    transport = httpx.ASGITransport(app=app, client=(host, 40000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield client


class TestWhatItTells:
    async def test_another_calibration(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "service"):
            async with client_of(ScriptedPipeline(fresh=NEW)) as client:
                response = await client.post(URL)
                shown = (await client.get("/v1/calibration")).json()
                metrics = (await client.get("/metrics")).text
        assert response.status_code == 200
        assert response.json() == {
            "object": "calibration.reload",
            "id": NEW.id,
            "previous": "sha256:feed",
            "changed": True,
            "warnings": ["mind the gap"],
            "differences": ["threshold: 0.710 -> 0.800"],
        }
        assert shown["id"] == NEW.id
        assert 'router_calibration_reloads_total{result="ok"} 1.0' in metrics
        (line,) = [record for record in caplog.records if record.name == "service.gateway"]
        assert line.getMessage() == "calibration reloaded"
        assert vars(line)["old"] == "sha256:feed"
        assert vars(line)["new"] == NEW.id
        assert vars(line)["warnings"] == ("mind the gap",)

    async def test_the_same_one(self) -> None:
        async with client_of() as client:
            body = (await client.post(URL)).json()
            metrics = (await client.get("/metrics")).text
        assert (body["changed"], body["differences"]) == (False, [])
        assert body["id"] == body["previous"] == "sha256:feed"
        assert 'router_calibration_reloads_total{result="unchanged"} 1.0' in metrics

    async def test_one_that_can_not_be_used(self, caplog: pytest.LogCaptureFixture) -> None:
        pipeline = ScriptedPipeline(fresh=ArtifactError("it has been altered"))
        async with client_of(pipeline) as client:
            response = await client.post(URL)
            shown = (await client.get("/v1/calibration")).json()
            metrics = (await client.get("/metrics")).text
        error = response.json()["error"]
        assert response.status_code == 409
        assert error["code"] == "calibration_unusable"
        assert "the new one can't be used: it has been altered" in error["message"]
        assert shown["id"] == "sha256:feed"
        assert 'router_calibration_reloads_total{result="failed"} 1.0' in metrics
        (line,) = [record for record in caplog.records if record.name == "service.gateway"]
        assert line.getMessage() == "calibration not reloaded: it has been altered"
        assert vars(line)["calibration"] == "sha256:feed"

    async def test_a_bug_is_counted_and_told_as_one(self) -> None:
        async with client_of(ScriptedPipeline(fresh=ZeroDivisionError())) as client:
            response = await client.post(URL)
            metrics = (await client.get("/metrics")).text
        assert response.status_code == 500
        assert 'router_calibration_reloads_total{result="failed"} 1.0' in metrics


class TestWhoMayAsk:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
    async def test_this_machine(self, host: str) -> None:
        async with client_from(host) as client:
            assert (await client.post(URL)).status_code == 200

    @pytest.mark.parametrize(
        "host", ["192.0.2.7", "10.0.0.1", "::ffff:192.0.2.7", "2001:db8::1", "localhost", "", None]
    )
    async def test_no_other(self, host: str | None) -> None:
        pipeline = ScriptedPipeline(fresh=NEW)
        async with client_from(host, pipeline) as client:
            response = await client.post(URL)
        error = response.json()["error"]
        assert response.status_code == 403
        assert error["code"] == "local_only"
        assert "came from elsewhere" in error["message"]
        assert pipeline.calibration == ScriptedCalibration()

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-Forwarded-For": "127.0.0.1"},
            {"X-Forwarded-Proto": "https"},
            {"Forwarded": "for=127.0.0.1"},
            {"X-Real-IP": "127.0.0.1"},
            {"Via": "1.1 proxy"},
        ],
    )
    async def test_no_proxy(self, headers: Mapping[str, str]) -> None:
        async with client_of(auth="off") as client:
            response = await client.post(URL, headers=dict(headers))
        assert response.status_code == 403
        assert "came through a proxy" in response.json()["error"]["message"]

    async def test_no_web_page(self) -> None:
        async with client_of() as client:
            response = await client.post(URL, headers={"Origin": "https://example.org"})
        assert response.status_code == 403
        assert "a web page" in response.json()["error"]["message"]

    async def test_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "socket")
        config = uvicorn.Config(make_app(), uds=path, log_level="error", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                assert (await client.post(URL)).status_code == 200
        finally:
            server.should_exit = True
            await task


class TestTheCache:
    async def test_what_the_old_one_decided_is_not_served_for_the_new_one(self) -> None:
        pipeline = ScriptedPipeline(fresh=NEW)
        async with client_of(pipeline) as client:

            async def ask() -> str:
                body = (await client.post("/v1/chat/completions", json=QUESTION)).json()
                return f"{body['router']['cache']} {body['router']['calibration']}"

            assert [await ask(), await ask()] == ["miss sha256:feed", "hit sha256:feed"]
            await client.post(URL)
            pipeline.reply = ANSWER
            assert [await ask(), await ask()] == [f"miss {NEW.id}", f"hit {NEW.id}"]
            pipeline.fresh = ScriptedCalibration()  # back to the old one: what it decided holds
            await client.post(URL)
            assert await ask() == "hit sha256:feed"

    @pytest.mark.parametrize("decided_by", [ScriptedCalibration(), NEW])
    async def test_an_answer_is_kept_for_the_calibration_that_decided_it(
        self, decided_by: ScriptedCalibration
    ) -> None:
        """Taken over between the look into the cache and the query's beginning, or after that."""
        reply = replace(LOCAL, decision=replace(CONFIDENT, calibration=decided_by.id))
        pipeline = ScriptedPipeline(reply, fresh=NEW)
        async with gateway_of(pipeline) as gateway:

            async def taken_over() -> None:
                await gateway.reload()

            pipeline.before = taken_over
            assert (await ask(gateway, query())).cache == "miss"
            pipeline.before = None
            for current in (NEW, ScriptedCalibration()):
                pipeline.calibration = current
                found = (await ask(gateway, query())).cache
                assert found == ("hit" if current == decided_by else "miss")
