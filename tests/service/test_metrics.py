"""What Prometheus sees: how long callers wait, and labels that nobody outside can add to."""

from __future__ import annotations

from typing import Any

import httpx

from router.budget import Budgets
from router.budgets import Limits
from tests.service.scripted import (
    LOCAL_STREAM,
    QUESTION,
    REMOTE_STREAM,
    ScriptedPipeline,
    client_of,
)

TTFT = "router_time_to_first_token_seconds_count"


async def exposition(client: httpx.AsyncClient) -> list[str]:
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    return reply.text.splitlines()


async def test_waiting_for_the_first_piece_is_told_by_who_wrote_it() -> None:
    pipeline = ScriptedPipeline(events=LOCAL_STREAM)
    async with client_of(pipeline) as client:
        await client.post("/v1/chat/completions", json=QUESTION | {"stream": True})
        pipeline.events = REMOTE_STREAM
        for seed in range(2):
            await client.post(
                "/v1/chat/completions", json=QUESTION | {"stream": True, "seed": seed}
            )
        await client.post("/v1/chat/completions", json=QUESTION | {"seed": 7})
        lines = await exposition(client)
    assert f'{TTFT}{{leg="local"}} 1.0' in lines
    assert f'{TTFT}{{leg="remote"}} 2.0' in lines


async def test_a_stage_that_was_left_out_does_not_look_fast() -> None:
    async with client_of() as client:
        await client.post("/v1/chat/completions", json=QUESTION)
        lines = await exposition(client)
    assert 'router_stage_seconds_count{stage="decode"} 1.0' in lines
    assert not [line for line in lines if 'stage="remote"' in line]


async def test_what_is_left_of_a_budget_is_told() -> None:
    budgets = Budgets(None, Limits(usd_per_day=5.0))
    async with client_of(ScriptedPipeline(budgets=budgets)) as client:
        lines = await exposition(client)
    await budgets.close()
    assert 'router_budget_usd{scope="gateway/day",what="left"} 5.0' in lines


async def test_no_caller_can_add_series() -> None:
    """Names, keys, paths and methods that nobody has seen before make no series."""
    async with client_of() as client:
        await exposition(client)  # counts itself
        await ask_oddly(client, "first")
        before = series(await exposition(client))
        for n in range(10):
            await ask_oddly(client, f"odd{n}")
        lines = await exposition(client)
    assert series(lines) == before
    assert "odd" not in "\n".join(lines)


def series(lines: list[str]) -> set[str]:
    """The names and labels of all series."""
    return {line.rsplit(" ", 1)[0] for line in lines if not line.startswith("#")}


async def ask_oddly(client: httpx.AsyncClient, word: str) -> None:
    """Put `word` wherever a caller can put something."""
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/chat/completions", {"json": QUESTION | {"model": word}}),
        ("POST", "/v1/chat/completions", {"json": QUESTION | {"user": word}}),
        ("POST", "/v1/chat/completions", {"json": QUESTION | {word: word}}),
        ("POST", "/v1/chat/completions", {"content": word}),
        ("POST", "/v1/chat/completions", {"headers": {"Authorization": f"Bearer {word}"}}),
        ("POST", "/v1/feedback", {"json": {"id": word, "correct": True}}),
        ("GET", f"/v1/models/{word}", {}),
        ("GET", f"/{word}/{word}", {}),
        ("GET", f"/v1/models?{word}={word}", {}),
        ("GET", "/healthz", {"headers": {"X-Request-Id": word, "User-Agent": word}}),
        (word.upper(), "/v1/models", {}),
        ("DELETE", f"/v1/cache?tenant={word}", {}),
    ]
    for method, path, sent in asked:
        await client.request(method, path, **sent)
