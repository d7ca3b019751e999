"""The routes beside chat: /v1/route, models, calibration, health, metrics, docs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.answer import Answer, Decision
from router.errors import EngineDown
from tests.redis_server import RedisServer
from tests.service.scripted import (
    LOCAL,
    QUESTION,
    REMOTE,
    UNCERTAIN,
    ScriptedPipeline,
    client_of,
    forever,
    make_app,
    running,
)


async def test_route_tells_the_decision_and_the_local_answer() -> None:
    reply = replace(LOCAL, decision=UNCERTAIN)
    async with client_of(ScriptedPipeline(reply)) as client:
        response = await client.post("/v1/route", json=QUESTION)
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "route.decision"
    assert body["id"]
    assert body["router"]["route"] == "remote"
    assert body["router"]["reason"] == "uncertain"
    assert body["router"]["cache"] == "bypass"
    assert body["answer"] == {"text": "Grüße!", "finish_reason": "stop"}
    assert response.headers["x-router-route"] == "remote"


async def test_route_without_a_local_answer() -> None:
    decided = Decision(route="remote", reason="capability")
    reply = Answer("", "stop", decided, None, None, 0.0, 0.0, {"total": 0.1})
    async with client_of(ScriptedPipeline(reply)) as client:
        body = (await client.post("/v1/route", json={**QUESTION, "n": 2})).json()
    assert body["answer"] is None
    assert body["router"]["p_correct"] is None


async def test_route_is_neither_cached_nor_counted_as_an_answer() -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline) as client:
        for _ in range(2):
            await client.post("/v1/route", json=QUESTION)
        metrics = (await client.get("/metrics")).text
    assert len(pipeline.queries) == 2
    assert "router_answers_total{" not in metrics
    assert 'router_tokens_total{kind="completion",leg="local"} 8.0' in metrics


@pytest.mark.parametrize("upstream", [None, "http://127.0.0.1:1/v1"])
async def test_models(upstream: str | None) -> None:
    pipeline = ScriptedPipeline(upstream=upstream and object())
    async with client_of(pipeline, upstream=upstream, upstream_model="big") as client:
        listed = (await client.get("/v1/models")).json()
        one = (await client.get("/v1/models/remote")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["auto", "local", "remote"]
    assert [model["available"] for model in listed["data"]] == [True, True, upstream is not None]
    assert one == listed["data"][2]
    assert one["object"] == "model"
    assert ("big" if upstream else "no upstream") in one["description"]
    assert "SmolLM2" in listed["data"][1]["description"]


async def test_calibration() -> None:
    async with client_of() as client:
        body = (await client.get("/v1/calibration")).json()
    assert body["id"] == "sha256:feed"
    assert body["calibration"] == {"threshold": 0.71, "n_fit": 100}
    assert body["model"]["quantisation"] == "Q4_1"


async def test_no_calibration() -> None:
    async with client_of(ScriptedPipeline(calibration=None)) as client:
        response = await client.get("/v1/calibration")
    assert response.status_code == 200
    assert response.json()["calibration"] is None
    assert response.json()["id"] is None


async def test_ready_follows_the_engine_and_alive_does_not() -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready", "missing": []}
        pipeline.engine.alive, pipeline.engine.trouble = False, "the engine crashed"
        ready = await client.get("/readyz")
        alive = await client.get("/healthz")
    assert ready.status_code == 503
    assert ready.json()["missing"] == ["the engine crashed"]
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})


@pytest.mark.parametrize(
    ("path", "stream"),
    [("/v1/chat/completions", False), ("/v1/chat/completions", True), ("/v1/route", False)],
)
async def test_while_draining_it_is_not_ready_and_begins_nothing(path: str, stream: bool) -> None:
    app = make_app()
    async with running(app) as client:
        app.state.gateway.drain()
        ready = await client.get("/readyz")
        answer = await client.post(path, json={**QUESTION, "stream": stream})
        alive = await client.get("/healthz")
    assert ready.status_code == 503
    assert ready.json()["missing"] == ["the gateway is stopping"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert int(answer.headers["Retry-After"]) >= 1
    assert alive.status_code == 200


async def samples(pipeline: ScriptedPipeline, *requests: dict[str, Any]) -> str:
    async with client_of(pipeline) as client:
        for fields in requests:
            await client.post("/v1/chat/completions", json={**QUESTION, **fields})
        await client.get("/v1/anything/at/all")
        response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return response.text


async def test_metrics_count_requests_answers_tokens_and_money() -> None:
    text = await samples(ScriptedPipeline(REMOTE), {}, {}, {"temperature": 1}, {"temperature": 9})
    for line in (
        'router_requests_total{endpoint="/v1/chat/completions",status="200"} 3.0',
        'router_requests_total{endpoint="/v1/chat/completions",status="400"} 1.0',
        'router_requests_total{endpoint="other",status="404"} 1.0',
        'router_answers_total{degraded="false",reason="uncertain",route="remote"} 3.0',
        'router_cache_lookups_total{result="hit"} 1.0',
        'router_cache_lookups_total{result="miss"} 1.0',
        'router_cache_lookups_total{result="bypass"} 1.0',
        'router_tokens_total{kind="prompt",leg="remote"} 18.0',
        'router_tokens_total{kind="completion",leg="local"} 8.0',
        "router_cost_usd_total 0.008",
        "router_saved_usd_total 0.004",
        'router_p_correct_bucket{le="0.4",route="remote"} 2.0',
        'router_stage_seconds_count{stage="remote"} 2.0',
        'router_request_seconds_count{endpoint="/v1/chat/completions"} 4.0',
        "router_engine_up 1.0",
        'router_engine{what="active"} 2.0',
        'router_engine{what="waiting"} 1.0',
        'router_engine{what="slots"} 8.0',
        'router_engine{what="restarts"} 3.0',
        'router_engine{what="wait_seconds"} 2.5',
        'router_engine_refused{reason="slow"} 4.0',
        "process_resident_memory_bytes",
    ):
        assert line in text


@pytest.mark.parametrize("p_correct", [None, float("nan")])
async def test_an_unknown_probability_is_not_in_the_histogram(p_correct: float | None) -> None:
    decision = replace(LOCAL.decision, p_correct=p_correct)
    text = await samples(ScriptedPipeline(replace(LOCAL, decision=decision)), {})
    assert "router_p_correct_count" not in text


async def test_metrics_are_there_when_the_engine_is_not() -> None:
    pipeline = ScriptedPipeline()
    pipeline.engine.alive = False
    pipeline.engine.fault = EngineDown("killed")
    text = await samples(pipeline)
    assert "router_engine_up 0.0" in text
    assert 'router_engine{what="active"}' not in text


async def test_two_applications_in_one_process_count_apart() -> None:
    async with client_of() as one, client_of() as other:
        await one.post("/v1/chat/completions", json=QUESTION)
        text = (await other.get("/metrics")).text
    assert "router_answers_total{" not in text


async def test_metrics_do_not_wait_for_an_engine_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.routes.metrics.STATS_TIMEOUT", 0.01)
    pipeline = ScriptedPipeline()
    monkeypatch.setattr(pipeline.engine, "stats", forever)
    assert "router_engine_up 1.0" in await samples(pipeline)


async def test_the_api_describes_itself() -> None:
    async with client_of() as client:
        schema = (await client.get("/openapi.json")).json()
        docs = await client.get("/docs")
    assert docs.status_code == 200
    assert set(schema["paths"]) == {
        "/v1/budget",
        "/v1/completions",
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/route",
        "/v1/feedback",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/cache",
        "/v1/calibration",
        "/v1/calibration/reload",
        "/healthz",
        "/readyz",
        "/metrics",
        "/dashboard",
        "/v1/dashboard",
    }
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    parts = schema["components"]["schemas"]
    assert {"ChatRequest", "ChatMessage", "ContentPart", "RouterOptions"} <= set(parts)
    assert "temperature" in parts["ChatRequest"]["properties"]
    names = [ref for ref in _references(schema) if ref.startswith("#/components/schemas/")]
    assert {name.rsplit("/", 1)[1] for name in names} <= set(parts)


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in _references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in _references(item)]
    return []


async def test_a_caller_purges_its_own_answers() -> None:
    mine, theirs = ({"Authorization": f"Bearer {name}"} for name in ("mine", "theirs"))
    async with client_of(ScriptedPipeline()) as client:
        for headers in (mine, theirs):
            await client.post("/v1/chat/completions", json=QUESTION, headers=headers)
        wrong = await client.delete("/v1/cache", params={"calibration": "x"}, headers=mine)
        purged = await client.delete("/v1/cache", headers=mine)
        again = [
            await client.post("/v1/chat/completions", json=QUESTION, headers=headers)
            for headers in (mine, theirs)
        ]
    assert wrong.status_code == 400
    assert purged.json() == {"object": "cache.purged", "purged": 1}
    assert [each.headers["x-router-cache"] for each in again] == ["miss", "hit"]
    assert [each.headers.get("age") for each in again] == [None, "0"]


async def test_a_purge_that_redis_can_not_do_says_so(redis_server: RedisServer) -> None:
    async with client_of(ScriptedPipeline(), redis_url=redis_server.url) as client:
        redis_server.stop()
        reply = await client.delete("/v1/cache")
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "cache_unavailable"
