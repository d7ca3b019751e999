"""Labels from the LLM's answers: which answers are audited, what is recorded, what it may cost."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from router.answer import Answer, Decision, Query, Usage
from router.config import Settings
from router.engine.messages import Message
from router.errors import LedgerError, UpstreamUnavailable
from router.ledger import Decided, Label, SqliteLedger
from router.prices import Prices
from router.remote import Upstream
from router.remote_body import RemoteAnswer
from service.audit import CONCURRENCY, MAX_WAITING, Auditor, build_auditor, upstream_label
from service.books import Books
from service.metrics import Metrics
from tests.router import fake_upstream
from tests.service.scripted import (
    LOCAL,
    QUESTION,
    REMOTE,
    TRACE,
    ScriptedPipeline,
    make_app,
    running,
)

NOON = 1_700_000_000.0
QUERY = Query(
    messages=(Message("system", "Be short."), Message("user", "What is the capital of Peru?")),
    body={"model": "auto", "messages": [{"role": "user", "content": "What?"}], "seed": 3},
)
KEPT = replace(LOCAL, text="Lima")


@dataclass
class ScriptedLLM:
    """Gives `reply`, after `gate` when there is one."""

    reply: str | Exception = "The capital of Peru is Lima."
    finish_reason: str = "stop"
    gate: asyncio.Event | None = None
    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def chat(self, body: Mapping[str, Any]) -> RemoteAnswer:
        self.bodies.append(body)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.reply, Exception):
            raise self.reply
        return RemoteAnswer({}, self.reply, self.finish_reason, Usage(100, 10))


@dataclass
class Audits:
    """An auditor with all that it works on."""

    auditor: Auditor
    books: Books
    ledger: SqliteLedger
    metrics: Metrics
    llm: ScriptedLLM
    now: float = NOON

    def offer(self, n: int = 1, query: Query = QUERY, answer: Answer = KEPT) -> list[float]:
        """Offer `n` answers, each recorded as a gateway records it."""
        chances = []
        for _ in range(n):
            id = f"chatcmpl-{random.getrandbits(64):x}"
            chances.append(self.auditor.offer(id, query, answer))
            self.books.decision(id, query, answer, chances[-1])
        return chances

    async def labelled(self) -> list[tuple[Decided, Label]]:
        await self.auditor.settled()
        await self.books.settled()
        return await self.ledger.labelled()

    def count(self, result: str) -> float:
        value = self.metrics.registry.get_sample_value("router_audits_total", {"result": result})
        return value or 0.0


@asynccontextmanager
async def audits_of(
    path: Path, llm: ScriptedLLM | None = None, *, rate: float = 1.0, per_day: int = 1000
) -> AsyncIterator[Audits]:
    llm, metrics = llm or ScriptedLLM(), Metrics()
    ledger = await SqliteLedger.open(path / "ledger.db", clock=lambda: NOON)
    books = Books(ledger, metrics, clock=lambda: audits.now)
    auditor = Auditor(
        books,
        metrics,
        llm,
        rate=rate,
        per_day=per_day,
        prices=Prices(1.0, 4.0),
        rng=random.Random(7),
    )
    audits = Audits(auditor, books, ledger, metrics, llm)
    yield audits
    await auditor.close()
    await books.close()
    await ledger.close()


@pytest.mark.parametrize(("reply", "correct"), [("Lima", True), ("It is Cusco.", False)])
async def test_an_audit_labels_the_answer(tmp_path: Path, reply: str, correct: bool) -> None:
    async with audits_of(tmp_path, ScriptedLLM(reply), rate=0.9999) as audits:
        assert audits.offer() == [0.9999]
        ((decided, label),) = await audits.labelled()
        cost = audits.metrics.registry.get_sample_value("router_audit_cost_usd_total")
        assert audits.count("agrees" if correct else "differs") == 1
    assert decided.audited == 0.9999
    assert decided.text == "Lima"
    assert label == Label(decided.id, correct, "audit", NOON, 0.9999)
    assert audits.llm.bodies == [QUERY.body]
    assert cost == pytest.approx((100 * 1 + 10 * 4) / 1e6)


async def test_what_can_not_be_told_gets_no_label_but_is_paid(tmp_path: Path) -> None:
    async with audits_of(tmp_path, ScriptedLLM("It depends. " * 20)) as audits:
        audits.offer()
        assert await audits.labelled() == []
        assert audits.count("untold") == 1
        audits.llm.reply, audits.llm.finish_reason = "Lima", "length"  # broken off
        audits.offer()
        assert await audits.labelled() == []
        cost = audits.metrics.registry.get_sample_value("router_audit_cost_usd_total")
        assert cost == pytest.approx(2 * 0.00014)


def kept(**changes: Any) -> Answer:
    return replace(KEPT, decision=replace(KEPT.decision, **changes))


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (replace(QUERY, local_only=True), KEPT),
        (replace(QUERY, mode="local"), KEPT),
        (replace(QUERY, mode="local"), kept(reason="policy")),
        (QUERY, kept(reason="policy")),
        (QUERY, kept(reason="no_upstream", degraded=True)),
        (QUERY, kept(reason="upstream_down", degraded=True)),
        (QUERY, kept(calibrated_sampler=False)),
        (QUERY, replace(KEPT, finish_reason="content_filter")),
        (QUERY, REMOTE),
    ],
)
async def test_what_is_never_audited(tmp_path: Path, query: Query, answer: Answer) -> None:
    async with audits_of(tmp_path) as audits:
        assert audits.offer(20, query, answer) == [0.0] * 20
        await audits.labelled()
        assert audits.llm.bodies == []


async def test_the_share_is_drawn_without_a_look_at_the_scores(tmp_path: Path) -> None:
    async with audits_of(tmp_path, rate=0.1, per_day=10_000) as audits:
        drawn = {}
        for p_correct in (0.72, 0.99):
            before = len(audits.llm.bodies)
            for _ in range(150):
                audits.offer(10, answer=kept(p_correct=p_correct))
                await audits.auditor.settled()
            drawn[p_correct] = len(audits.llm.bodies) - before
        labelled = await audits.labelled()
    # 1500 draws at 0.1: 150, standard deviation 11.6
    assert all(abs(n - 150) < 4 * 11.6 for n in drawn.values())
    assert len(labelled) == sum(drawn.values())
    assert {label.inclusion for _, label in labelled} == {0.1}
    # Weighted by 1 / inclusion they stand for all.
    assert sum(1 / (label.inclusion or 1) for _, label in labelled) == pytest.approx(3000, abs=700)


async def test_a_rate_of_zero(tmp_path: Path) -> None:
    async with audits_of(tmp_path, rate=0.0) as audits:
        assert audits.offer(5) == [0.0] * 5
    async with audits_of(tmp_path, per_day=0) as audits:
        assert audits.offer(5) == [0.0] * 5


async def test_the_days_audits_are_shared_and_begin_anew(tmp_path: Path) -> None:
    async with audits_of(tmp_path, per_day=5) as one, audits_of(tmp_path, per_day=5) as other:
        one.offer(3)
        await one.auditor.settled()
        other.offer(4)
        await other.auditor.settled()
        assert len(one.llm.bodies) + len(other.llm.bodies) == 5
        assert other.count("dropped") == 2
        assert other.offer() == [0.0]  # and is recorded as one that could not be drawn
        one.now = other.now = NOON + 86_400
        assert other.offer() == [1.0]
        await other.auditor.settled()
        assert len(other.llm.bodies) == 3
    async with audits_of(tmp_path, per_day=5) as later:
        later.now = NOON + 86_400
        later.offer(5)
        await later.auditor.settled()
        assert len(later.llm.bodies) == 4  # a restart forgets nothing


async def test_few_at_once_and_few_waiting(tmp_path: Path) -> None:
    llm = ScriptedLLM(gate=asyncio.Event())
    async with audits_of(tmp_path, llm) as audits:
        chances = audits.offer(MAX_WAITING + 5)
        assert chances == [1.0] * MAX_WAITING + [0.0] * 5
        while llm.at_once < CONCURRENCY:
            await asyncio.sleep(0.001)
        assert llm.gate is not None
        llm.gate.set()
        assert len(await audits.labelled()) == MAX_WAITING
        assert llm.most_at_once == CONCURRENCY
        assert audits.offer() == [1.0]


async def test_an_upstream_that_fails_is_counted(tmp_path: Path) -> None:
    async with audits_of(tmp_path, ScriptedLLM(UpstreamUnavailable("down"))) as audits:
        audits.offer()
        assert await audits.labelled() == []
        assert audits.count("failed") == 1


async def test_a_bug_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with audits_of(tmp_path, ScriptedLLM(ZeroDivisionError("secret"))) as audits:
        audits.offer()
        assert await audits.labelled() == []
        assert "internal error in an audit" in caplog.text


async def test_a_ledger_that_fails_costs_no_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise LedgerError("broken")

    async with audits_of(tmp_path) as audits:
        monkeypatch.setattr(audits.ledger, "update_state", fail)
        audits.offer()
        await audits.auditor.settled()
        assert audits.llm.bodies == []
        assert audits.count("dropped") == 1


async def test_draining_gives_up(tmp_path: Path) -> None:
    llm = ScriptedLLM(gate=asyncio.Event())
    async with audits_of(tmp_path, llm) as audits:
        audits.offer(5)
        while llm.at_once < CONCURRENCY:
            await asyncio.sleep(0.001)
        audits.auditor.drain()
        assert audits.offer() == [0.0]
        assert await audits.labelled() == []
        assert audits.count("dropped") == 5
        assert llm.at_once == 0


def test_without_an_upstream_or_a_ledger_there_is_no_auditor() -> None:
    metrics = Metrics()
    off = Books(None, metrics)
    assert build_auditor(Settings(), off, metrics, ScriptedLLM()) is None
    assert build_auditor(Settings(), off, metrics, None) is None


ESCALATED = replace(REMOTE, text="Grüße", trace=TRACE)


@pytest.mark.parametrize(
    ("changes", "correct"),
    [
        ({}, True),
        ({"text": "Hallo"}, False),
        ({"text": "There are many ways to say it. Here is one of them."}, None),
        ({"finish_reason": "length"}, None),
        ({"finish_reason": "tool_calls", "text": ""}, None),
        ({"trace": None}, None),
        ({"trace": replace(TRACE, finish_reason="stopped")}, None),
        ({"decision": replace(REMOTE.decision, calibrated_sampler=False)}, None),
        ({"decision": Decision("local", "confident")}, None),
    ],
)
def test_an_escalated_answer_is_compared(changes: dict[str, Any], correct: bool | None) -> None:
    label = upstream_label("id", QUERY, replace(ESCALATED, **changes), NOON)
    expected = None if correct is None else Label("id", correct, "upstream", NOON, 1.0)
    assert (None if label is None else label()) == expected


@asynccontextmanager
async def gateway(
    pipeline: ScriptedPipeline, tmp_path: Path, **settings: Any
) -> AsyncIterator[tuple[Any, Any]]:
    app = make_app(pipeline, ledger=str(tmp_path / "ledger.db"), audit_rate=1.0, **settings)
    async with running(app) as client:
        yield client, app.state.gateway


async def ask(client: Any, **fields: Any) -> str:
    response = await client.post("/v1/chat/completions", json={**QUESTION, **fields})
    id: str = response.json()["id"]
    return id


async def test_a_gateway_labels_what_it_escalates_and_audits_what_it_keeps(tmp_path: Path) -> None:
    pipeline = ScriptedPipeline(replace(LOCAL, text="Guten Tag"), upstream=ScriptedLLM("Hallo"))
    async with gateway(pipeline, tmp_path) as (client, inside):
        kept_id = await ask(client)
        hit_id = await ask(client)
        pipeline.reply = ESCALATED
        escalated_id = await ask(client, seed=1)
        await inside.auditor.settled()
        await inside.books.settled()
        found = {
            decided.id: (decided, label) for decided, label in await inside.books.ledger.labelled()
        }
        assert (await inside.books.ledger.find(hit_id)).audited == 0.0
    assert found.keys() == {kept_id, escalated_id}
    assert (found[kept_id][0].audited, found[kept_id][1].correct) == (1.0, False)
    assert (found[escalated_id][1].source, found[escalated_id][1].inclusion) == ("upstream", 1.0)
    assert found[escalated_id][1].correct


async def test_an_answer_does_not_wait_for_its_audit(tmp_path: Path) -> None:
    llm = ScriptedLLM(gate=asyncio.Event())
    async with gateway(ScriptedPipeline(upstream=llm), tmp_path) as (client, inside):
        await ask(client)
        while not llm.bodies:
            await asyncio.sleep(0.001)
        assert llm.at_once == 1
        inside.drain()
    assert llm.at_once == 0


async def test_what_is_local_only_never_reaches_the_upstream(tmp_path: Path) -> None:
    secret = "my diagnosis"
    async with fake_upstream.scripted(fake_upstream.answer(fake_upstream.completion())) as server:
        pipeline = ScriptedPipeline(upstream=Upstream(server.url))
        async with gateway(pipeline, tmp_path) as (client, inside):
            private = [{"role": "user", "content": secret}]
            for i in range(30):
                options = {"local_only": True, "threshold": i / 30}
                await ask(client, messages=private, seed=i, router=options)
            public = await ask(client)
            await inside.auditor.settled()
            await inside.books.settled()
            kept_text = (await inside.books.ledger.find(public)).text
        assert isinstance(pipeline.upstream, Upstream)
        await pipeline.upstream.close()
    assert kept_text == LOCAL.text
    assert len(server.requests) == 1  # the one that may be audited: the capture works
    assert secret not in json.dumps([request.body for request in server.requests])
