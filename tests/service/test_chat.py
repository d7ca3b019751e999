"""POST /v1/chat/completions in one piece."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.answer import Answer
from router.errors import ConfigError
from service.parse import parse_chat_request
from service.query import to_query
from tests.service.scripted import INFO, LOCAL, QUESTION, REMOTE, ScriptedPipeline, client_of

ROUTER_KEYS = [
    "route",
    "reason",
    "p_correct",
    "threshold",
    "uncertainty",
    "calibration",
    "calibrated_sampler",
    "certificate",
    "degraded",
    "budget",
    "cache",
    "upstream",
    "upstream_id",
    "usage",
    "cost_usd",
    "saved_usd",
    "timings_ms",
]


def strict(response: httpx.Response) -> dict[str, Any]:
    """Parse as a strict reader would: NaN is no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in a response")

    body = json.loads(response.content, parse_constant=refuse)
    assert isinstance(body, dict)
    return body


async def ask(pipeline: ScriptedPipeline, **fields: Any) -> httpx.Response:
    async with client_of(pipeline) as client:
        return await client.post("/v1/chat/completions", json={**QUESTION, **fields})


async def test_a_local_answer() -> None:
    response = await ask(ScriptedPipeline())
    body = strict(response)
    assert response.status_code == 200
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert isinstance(body["created"], int)
    assert body["model"] == f"local:{INFO.model_name}"
    assert body["system_fingerprint"].startswith("fp_")
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Grüße!", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


async def test_the_router_object() -> None:
    router = strict(await ask(ScriptedPipeline()))["router"]
    assert list(router) == ROUTER_KEYS
    assert router["route"] == "local"
    assert router["reason"] == "confident"
    assert router["p_correct"] == 0.83
    assert router["threshold"] == 0.71
    assert router["uncertainty"] == {"perplexity": 0.12, "margin": None}
    assert router["calibration"] == "sha256:feed"
    assert router["calibrated_sampler"] is True
    assert router["certificate"] is None
    assert router["degraded"] is False
    assert router["cache"] == "miss"
    assert router["usage"]["local"]["total_tokens"] == 11
    assert router["usage"]["remote"] is None
    assert router["saved_usd"] == 0.002
    assert list(router["timings_ms"]) == ["queue", "prefill", "decode", "uq", "remote", "total"]


async def test_a_certificate_is_shown_as_it_is() -> None:
    decision = replace(LOCAL.decision, certificate={"target": "risk", "n": 500})
    reply = replace(LOCAL, decision=decision)
    router = strict(await ask(ScriptedPipeline(reply)))["router"]
    assert router["certificate"] == {"target": "risk", "n": 500}


async def test_a_remote_answer_is_the_upstreams_own_with_the_router_object() -> None:
    assert REMOTE.remote_body is not None
    body = strict(await ask(ScriptedPipeline(REMOTE)))
    router = body.pop("router")
    assert body == {**REMOTE.remote_body, "id": body["id"]}
    assert body["id"] != REMOTE.remote_body["id"] == router["upstream_id"]
    assert router["route"] == "remote"
    assert router["reason"] == "uncertain"
    assert router["cost_usd"] == 0.004
    assert router["usage"]["local"]["completion_tokens"] == 4
    assert router["usage"]["remote"]["completion_tokens"] == 3


async def test_numbers_an_upstream_can_not_have_meant_become_null() -> None:
    body = {**(REMOTE.remote_body or {}), "extra": [float("nan"), {"x": float("inf")}]}
    answered = strict(await ask(ScriptedPipeline(replace(REMOTE, remote_body=body))))
    assert answered["extra"] == [None, {"x": None}]


async def test_the_headers_are_the_short_form() -> None:
    headers = (await ask(ScriptedPipeline())).headers
    assert headers["x-router-route"] == "local"
    assert headers["x-router-reason"] == "confident"
    assert headers["x-router-p-correct"] == "0.8300"
    assert headers["x-router-threshold"] == "0.7100"
    assert headers["x-router-cache"] == "miss"
    assert headers["x-router-degraded"] == "false"
    assert headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("p_correct", [None, float("nan")])
async def test_an_unknown_probability_is_null_and_has_no_header(p_correct: float | None) -> None:
    decision = replace(LOCAL.decision, p_correct=p_correct, threshold=None, degraded=True)
    response = await ask(ScriptedPipeline(replace(LOCAL, decision=decision)))
    router = strict(response)["router"]
    assert router["p_correct"] is None
    assert router["threshold"] is None
    assert "x-router-p-correct" not in response.headers
    assert "x-router-threshold" not in response.headers
    assert response.headers["x-router-degraded"] == "true"


async def test_logprobs_have_openais_form() -> None:
    body = strict(await ask(ScriptedPipeline(), logprobs=True, top_logprobs=2))
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["Gr", "ü", "\ufffd", "\ufffde!"]
    assert [entry["bytes"] for entry in content] == [
        [71, 114],
        [195, 188],
        [195],
        [159, 101, 33],
    ]
    assert [entry["logprob"] for entry in content] == [-0.1, -0.5, -1.5, -9999.0]
    assert content[1]["top_logprobs"] == [
        {"token": "ü", "logprob": -0.5, "bytes": [195, 188]},
        {"token": " other", "logprob": -2.0, "bytes": list(b" other")},
    ]


async def test_no_more_alternatives_than_asked_for() -> None:
    body = strict(await ask(ScriptedPipeline(), logprobs=True))
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in content] == [[]] * 4


async def test_logprobs_of_an_answer_without_tokens() -> None:
    reply = replace(LOCAL, trace=None, pieces=(), top_pieces=())
    body = strict(await ask(ScriptedPipeline(reply), logprobs=True))
    assert body["choices"][0]["logprobs"] == {"content": [], "refusal": None}


async def test_the_pipeline_gets_the_query() -> None:
    pipeline = ScriptedPipeline()
    await ask(pipeline, router={"threshold": 0.9}, max_tokens=5)
    raw = {**QUESTION, "max_tokens": 5, "router": {"threshold": 0.9}}
    parsed = parse_chat_request(json.dumps(raw).encode())
    assert pipeline.queries == [to_query(parsed.request, parsed.raw, n_vocab=INFO.n_vocab)]


async def test_the_fingerprint_follows_the_model_and_the_build() -> None:
    prints = set()
    for info in (INFO, replace(INFO, model_sha256="00" * 32), replace(INFO, build="0.4")):
        pipeline = ScriptedPipeline()
        pipeline.engine.info = info
        prints.add(strict(await ask(pipeline))["system_fingerprint"])
    assert len(prints) == 3


async def post_twice(pipeline: ScriptedPipeline, **fields: Any) -> list[dict[str, Any]]:
    headers = fields.pop("headers", {})
    async with client_of(pipeline) as client:
        responses = [
            await client.post("/v1/chat/completions", json={**QUESTION, **fields}, headers=headers)
            for _ in range(2)
        ]
    return [strict(response) for response in responses]


@pytest.mark.parametrize("reply", [LOCAL, REMOTE])
async def test_the_second_time_it_comes_from_the_cache(reply: Answer) -> None:
    pipeline = ScriptedPipeline(reply)
    first, second = await post_twice(pipeline, logprobs=True, top_logprobs=1)
    assert len(pipeline.queries) == 1
    assert (first["router"]["cache"], second["router"]["cache"]) == ("miss", "hit")
    assert second["choices"] == first["choices"]
    assert second["usage"] == first["usage"]
    assert second["router"]["cost_usd"] == 0
    assert second["router"]["saved_usd"] == reply.cost_usd + reply.saved_usd
    timings = second["router"]["timings_ms"]
    assert 0 < timings.pop("total") < 30
    assert set(timings.values()) == {0.0}


@pytest.mark.parametrize(
    "fields", [{"temperature": 0.8}, {"headers": {"Cache-Control": "no-cache"}}]
)
async def test_some_requests_go_past_the_cache(fields: dict[str, Any]) -> None:
    pipeline = ScriptedPipeline()
    first, second = await post_twice(pipeline, **fields)
    assert len(pipeline.queries) == 2
    assert first["router"]["cache"] == second["router"]["cache"] == "bypass"


async def test_a_degraded_answer_is_not_kept() -> None:
    decision = replace(LOCAL.decision, reason="upstream_down", degraded=True)
    pipeline = ScriptedPipeline(replace(LOCAL, decision=decision))
    first, second = await post_twice(pipeline)
    assert len(pipeline.queries) == 2
    assert first["router"]["cache"] == second["router"]["cache"] == "miss"


@pytest.fixture
def rules(tmp_path: Path) -> str:
    file = tmp_path / "rules.txt"
    file.write_text("email\n", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("text", "stays"), [("Mail ada@example.org for me", True), ("Say hello", False)]
)
async def test_a_rule_keeps_what_it_finds_local(rules: str, text: str, stays: bool) -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline, local_only_rules=rules) as client:
        for path in ("/v1/chat/completions", "/v1/route"):
            body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
            assert (await client.post(path, json=body)).status_code == 200
    assert [query.local_only for query in pipeline.queries] == [stays, stays]


async def test_a_gateway_that_can_not_search_as_it_is_told_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "router.presidio", raising=False)
    monkeypatch.delattr("router.presidio", raising=False)
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"pip install 'seek-stronger\[presidio\]'"):
        async with client_of(ScriptedPipeline(), presidio_model="en_core_web_sm"):
            pass


async def test_what_a_rule_keeps_can_not_be_asked_of_the_upstream(rules: str) -> None:
    pipeline = ScriptedPipeline()
    async with client_of(pipeline, local_only_rules=rules) as client:
        body = {"model": "remote", "messages": [{"role": "user", "content": "Mail a@b.org"}]}
        reply = await client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "kept_local"
    assert "'email'" in reply.json()["error"]["message"]
    assert pipeline.queries == []
