"""What a gateway says of money: to its callers, its operator, and those it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.account import ANONYMOUS, Account
from router.answer import BudgetNote
from router.budget import Budgets
from router.budgets import Limits, RedisStore
from router.errors import BudgetSpent
from router.keystore import KeyStore
from service import stored
from service.keys import worth_keeping
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    QUESTION,
    REMOTE,
    ScriptedPipeline,
    client_of,
    make_app,
    serving,
)
from tests.service.test_audit import KEPT, QUERY, ScriptedLLM, audits_of

NOON = 1_700_049_600.0
NOTE = BudgetNote("key/day", 0.25, threshold_moved=True, threshold_wanted=0.9)


async def spent(budgets: Budgets, account: Account, usd: float) -> None:
    spending = budgets.of(account)
    assert spending is not None
    hold = await spending.reserve(usd, forced=True)
    assert hold is not None
    hold.settle(usd)
    await budgets.sync()


@asynccontextmanager
async def gateway(budgets: Budgets, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(ScriptedPipeline(budgets=budgets), **settings) as client:
        yield client
    await budgets.close()


async def test_a_key_sees_its_own_limits_and_the_operator_the_gateways(tmp_path: Path) -> None:
    budgets = Budgets(None, Limits(usd_per_month=50.0), clock=lambda: NOON)
    keys = KeyStore(tmp_path / "keys.db")
    key, ada = keys.create(Account(name="ada", usd_per_day=2.0))
    admin, _ = keys.create(Account(name="operator"), admin=True)
    async with gateway(budgets, keys=str(keys.path)) as client:
        await spent(budgets, ada.account, 0.5)

        async def get(path: str, key: str) -> httpx.Response:
            return await client.get(path, headers={"Authorization": f"Bearer {key}"})

        body = (await get("/v1/budget", key)).json()
        (seen,) = (await get("/v1/budget", admin)).json()["limits"]
        metrics = (await get("/metrics", admin)).text
    assert body == {
        "object": "budget",
        "limits": [
            {
                "limit": "key/day",
                "usd": 2.0,
                "spent": 0.5,
                "reserved": 0.0,
                "left": 1.5,
                "escalation_ratio": None,
                "ends": "2023-11-16T00:00:00Z",
            }
        ],
        "stale": False,
    }
    assert (seen["limit"], seen["left"]) == ("gateway/month", 49.5)
    assert 'router_budget_usd{scope="gateway/month",what="limit"} 50.0' in metrics
    assert 'router_budget_usd{scope="gateway/month",what="spent"} 0.5' in metrics
    assert 'router_budget_usd{scope="gateway/month",what="reserved"} 0.0' in metrics
    assert "ada" not in metrics
    assert "key/" not in metrics


async def test_without_keys_the_gateways_limits_are_the_callers() -> None:
    budgets = Budgets(None, Limits(usd_per_day=5.0), clock=lambda: NOON)
    async with gateway(budgets) as client:
        (limit,) = (await client.get("/v1/budget")).json()["limits"]
    assert (limit["limit"], limit["left"]) == ("gateway/day", 5.0)
    async with client_of() as client:
        body = (await client.get("/v1/budget")).json()
    assert body == {"object": "budget", "limits": [], "stale": False}


async def test_a_store_that_fails_is_told_and_counted() -> None:
    budgets = Budgets(RedisStore("redis://127.0.0.1:1/0", timeout=0.2), Limits(usd_per_day=5.0))
    async with gateway(budgets) as client:
        body = (await client.get("/v1/budget")).json()
        metrics = (await client.get("/metrics")).text
    assert body["stale"] is True
    assert body["limits"][0]["spent"] == 0.0
    assert 'router_ledger_errors_total{operation="budget"}' in metrics


def test_openais_client_is_told_that_the_money_is_spent_and_asks_once() -> None:
    pipeline = ScriptedPipeline(BudgetSpent("key/day", NOON + 43_200))
    with (
        serving(make_app(pipeline)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=2) as client,
        pytest.raises(openai.RateLimitError, match="2023-11-16") as caught,
    ):
        client.chat.completions.create(
            model="remote", messages=[{"role": "user", "content": "Say hello"}]
        )
    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")
    assert len(pipeline.queries) == 1


async def test_an_answer_says_what_money_had_to_do_with_it() -> None:
    decision = replace(CONFIDENT, budget=NOTE)
    pipeline = ScriptedPipeline(
        replace(LOCAL, decision=decision), events=[decision, replace(LOCAL, decision=decision)]
    )
    async with client_of(pipeline) as client:
        body = (await client.post("/v1/chat/completions", json=QUESTION)).json()
        text = (await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})).text
    assert body["router"]["budget"] == {
        "limit": "key/day",
        "usd_left": 0.25,
        "threshold_moved": True,
        "threshold_wanted": 0.9,
    }
    assert '"threshold_moved":true' in text.replace(" ", "")


def test_an_answer_that_was_kept_for_want_of_money_is_not_kept_for_others() -> None:
    def kept(note: BudgetNote, answer: Any = LOCAL) -> bool:
        return worth_keeping(replace(answer, decision=replace(answer.decision, budget=note)))

    assert not kept(NOTE)  # 0.83 of 0.9
    assert not kept(replace(NOTE, threshold_wanted=None))
    assert kept(replace(NOTE, threshold_wanted=0.8))
    assert kept(BudgetNote("key/day", 0.25))
    assert kept(NOTE, REMOTE)


def test_what_was_left_at_that_time_is_not_told_from_the_cache() -> None:
    decision = replace(CONFIDENT, budget=NOTE)
    value = stored.encode(replace(LOCAL, decision=decision), at=NOON, keep_trace=False)
    assert stored.decode(value).answer.decision.budget is None


async def test_audits_draw_on_the_gateways_money(tmp_path: Path) -> None:
    budgets = Budgets(None, Limits(usd_per_day=0.002), clock=lambda: NOON)
    async with audits_of(tmp_path, ScriptedLLM("Lima"), rate=0.9999) as audits:
        audits.auditor._budgets = budgets
        for _ in range(20):
            audits.offer(1, QUERY, KEPT)
            await audits.auditor.settled()
        (seen,) = await budgets.look(ANONYMOUS)
        assert 0 < seen.spent <= 0.002
        assert audits.count("dropped") > 0
        assert len(audits.llm.bodies) + audits.count("dropped") == 20
    await budgets.close()
