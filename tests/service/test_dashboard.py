"""What the operator's page is told, and how the page itself is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.budget import Budgets
from router.budgets import Limits
from router.errors import EngineDown
from router.remote import Upstream
from router.upstreams.breaker import BreakerRules
from router.upstreams.health import Health
from router.upstreams.pool import Member, UpstreamPool
from tests.service.scripted import (
    LOCAL_STREAM,
    QUESTION,
    ScriptedPipeline,
    client_of,
    make_app,
    running,
)
from tests.service.test_live import gateway


async def told(client: httpx.AsyncClient) -> Any:
    reply = await client.get("/v1/dashboard")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    return reply.json()


async def test_tells_of_answers_without_a_word_of_them() -> None:
    async with client_of() as client:
        answers = [
            (await client.post("/v1/chat/completions", json=QUESTION)).json() for _ in range(2)
        ]
        reply = await client.get("/v1/dashboard")
    data = reply.json()
    assert data["calibration"] == "sha256:feed"
    assert sum(minute["local"] for minute in data["minutes"]) == 2
    assert data["cache"] == {"kind": "memory", "lookups": {"miss": 1, "hit": 1}, "faults": {}}
    assert [given["cache"] for given in data["decisions"]] == ["miss", "hit"]
    assert [given["id"] for given in data["decisions"]] == [answer["id"] for answer in answers]
    assert data["engine"] == {
        "model": "SmolLM2-135M-Instruct",
        "alive": True,
        "trouble": None,
        "active": 2,
        "waiting": 1,
        "slots": 8,
        "restarts": 3,
        "breaker_open": False,
    }
    assert data["upstream"] == {"configured": False, "members": [], "audit_usd": 0.0}
    for text in ("Say hello in German", "Grüße!"):
        assert text not in reply.text


async def test_tells_when_streamed_answers_began() -> None:
    async with client_of(ScriptedPipeline(events=LOCAL_STREAM)) as client:
        await client.post("/v1/chat/completions", json=QUESTION | {"stream": True})
        await client.post("/v1/chat/completions", json=QUESTION | {"seed": 1})
        assert (await told(client))["latency_ms"]["first_piece"]["n"] == 1


async def test_tells_how_each_upstream_is_doing() -> None:
    far, near = Health("far", rules=BreakerRules(in_a_row=1)), Health("near")
    for health, ends_well in ((near, True), (far, False)):
        call = health.enter()
        assert call is not None
        health.explain("status 503")
        (call.succeed if ends_well else call.fail)()
    async with (
        Upstream("http://127.0.0.1:1/v1", "m", name="far", health=far) as one,
        Upstream("http://127.0.0.1:1/v1", "m", name="near", health=near) as other,
        client_of(ScriptedPipeline(upstream=UpstreamPool([Member(one), Member(other)]))) as client,
    ):
        upstream = (await told(client))["upstream"]
    assert upstream["configured"]
    sick, well = upstream["members"]
    assert (sick["name"], sick["standing"], sick["why"]) == ("far", "open", "status 503")
    assert 0 < sick["retry_in"] <= 1
    assert (sick["calls"], sick["transitions"]) == ({"failed": 1}, {"open": 1})
    assert (well["name"], well["standing"], well["calls"]) == ("near", "closed", {"ok": 1})


async def test_tells_of_decisions_that_were_only_asked_for() -> None:
    async with client_of() as client:
        await client.post("/v1/route", json=QUESTION)
        data = await told(client)
    assert data["p_correct"]["n"] == 1
    assert data["decisions"] == []


async def test_tells_while_the_engine_is_down() -> None:
    pipeline = ScriptedPipeline()
    pipeline.engine.alive, pipeline.engine.trouble = False, "the engine process ended"
    pipeline.engine.fault = EngineDown("gone")
    async with client_of(pipeline) as client:
        engine = (await told(client))["engine"]
    assert (engine["alive"], engine["trouble"]) == (False, "the engine process ended")
    assert engine["slots"] is engine["breaker_open"] is None


async def test_tells_without_a_calibration() -> None:
    async with client_of(ScriptedPipeline(calibration=None), ledger="off") as client:
        data = await told(client)
    assert data["calibration"] is data["live"] is None
    assert data["ledger"] == {"on": False, "faults": {}}


async def test_tells_faults_of_the_cache() -> None:
    app = make_app()
    async with running(app) as client:
        app.state.gateway.metrics.cache_fault("get")
        assert (await told(client))["cache"]["faults"] == {"get": 1.0}


async def test_tells_what_was_spent_and_where_traffic_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path, monkeypatch) as made:
        answers = await made.ask(0.7, 1.3, 1.3, 1.3, 1.3)
        data = await told(made.client)
    spent = sum(answer["cost_usd"] for answer in answers)
    assert spent > 0
    assert data["money"]["today"]["spent"] == pytest.approx(spent)
    assert data["live"]["control"]["n"] == 5
    assert data["alarm_at"] == 100
    assert data["calibration"] == answers[0]["calibration"]


async def test_tells_where_the_gateways_budgets_stand() -> None:
    budgets = Budgets(None, Limits(usd_per_month=50.0))
    async with client_of(ScriptedPipeline(budgets=budgets)) as client:
        (limit,) = (await told(client))["budgets"]["limits"]
    await budgets.close()
    assert (limit["limit"], limit["usd"], limit["left"]) == ("gateway/month", 50.0, 50.0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"X-Forwarded-For": "203.0.113.9"}, 401), ({"Origin": "https://elsewhere.example"}, 403)],
)
async def test_strangers_are_told_nothing(headers: dict[str, str], status: int) -> None:
    async with client_of() as client:
        reply = await client.get("/v1/dashboard", headers=headers)
    assert reply.status_code == status
    assert "decisions" not in reply.text


async def test_the_page_runs_nothing_but_what_is_in_it() -> None:
    async with client_of() as client:
        reply = await client.get("/dashboard")
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    for tag in ("script", "style"):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in json.dumps(policy)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", reply.text)
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", reply.text)


async def test_the_page_holds_no_data() -> None:
    async with client_of() as client:
        before = (await client.get("/dashboard")).text
        await client.post("/v1/chat/completions", json=QUESTION)
        assert (await client.get("/dashboard")).text == before
