"""POST /v1/feedback, from the answer to its label; and ledgers that break."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from router.answer import Answer
from router.errors import LedgerError
from router.ledger import Decided, Label, Ledger, SqliteLedger
from service.books import CAPACITY, Books
from service.gateway import Gateway
from service.metrics import Metrics
from tests.redis_server import RedisServer
from tests.service.scripted import (
    LOCAL,
    LOCAL_STREAM,
    QUESTION,
    REMOTE,
    REMOTE_STREAM,
    TRACE,
    UNCERTAIN,
    ScriptedPipeline,
    make_app,
    running,
)

ESCALATED = replace(REMOTE, trace=TRACE)  # its local answer is "Grüße!"


class Client:
    """A gateway, asked."""

    def __init__(self, http: httpx.AsyncClient, gateway: Gateway, pipeline: ScriptedPipeline):
        self.http = http
        self.gateway = gateway
        self.pipeline = pipeline

    async def ask(self, **fields: Any) -> str:
        """Return the response's id."""
        response = await self.http.post("/v1/chat/completions", json={**QUESTION, **fields})
        assert response.status_code == 200
        id: str = response.json()["id"]
        return id

    async def feedback(self, id: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/feedback", json={"id": id, **fields})

    async def labels(self) -> list[Label]:
        ledger = self.gateway.books.ledger
        assert ledger is not None
        await self.gateway.books.settled()
        return [label for _, label in await ledger.labelled()]

    async def found(self, id: str) -> Decided:
        ledger = self.gateway.books.ledger
        assert ledger is not None
        await self.gateway.books.settled()
        decided = await ledger.find(id)
        assert decided is not None
        return decided

    def count(self, name: str, **labels: str) -> float:
        return self.gateway.metrics.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def asked(
    reply: Answer | Exception = LOCAL, events: Sequence[Any] = LOCAL_STREAM, **settings: Any
) -> AsyncIterator[Client]:
    pipeline = ScriptedPipeline(reply, events)
    app = make_app(pipeline, **settings)
    async with running(app) as http:
        yield Client(http, app.state.gateway, pipeline)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def error(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()["error"]
    return body


async def test_an_answers_decision_is_kept(file: str) -> None:
    async with asked(ledger=file) as client:
        decided = await client.found(await client.ask())
    decision = LOCAL.decision
    assert (decided.route, decided.reason, decided.degraded) == ("local", "confident", False)
    assert (decided.p_correct, decided.threshold) == (decision.p_correct, decision.threshold)
    assert decided.calibration == "sha256:feed"
    assert decided.scores["perplexity"] == 0.12
    assert decided.text == LOCAL.text
    assert decided.audited == 0.0
    ledger = await SqliteLedger.open(file)
    assert await ledger.find(decided.id) is not None
    await ledger.close()
    assert b"Say hello" not in Path(file).read_bytes()  # the question is not kept


@pytest.mark.parametrize("correct", [True, False])
async def test_correct(file: str, correct: bool) -> None:
    async with asked(ledger=file) as client:
        id = await client.ask()
        response = await client.feedback(id, correct=correct)
        again = await client.feedback(id, correct=correct)
        (label,) = await client.labels()
        told = "true" if correct else "false"
        assert client.count("router_labels_total", source="user", correct=told) == 1
    assert response.status_code == 200
    whole = {"object": "feedback", "id": id, "correct": correct, "counted": True}
    assert response.json() == whole
    assert again.json() == {**whole, "counted": False}
    assert (label.correct, label.source, label.inclusion) == (correct, "user", None)


async def test_the_last_word_holds(file: str) -> None:
    async with asked(ledger=file) as client:
        id = await client.ask()
        assert (await client.feedback(id, correct=True)).json()["counted"]
        assert (await client.feedback(id, correct=False)).json()["counted"]
        (label,) = await client.labels()
    assert not label.correct


@pytest.mark.parametrize(
    ("text", "answer", "correct"),
    [("The answer is B.", "b", True), ("It is 12.", "13", False), ("Lima, I think", "Lima", True)],
)
async def test_a_better_answer_is_graded(file: str, text: str, answer: str, correct: bool) -> None:
    async with asked(replace(LOCAL, text=text), ledger=file) as client:
        response = await client.feedback(await client.ask(), answer=answer)
    assert response.json()["correct"] is correct
    assert response.json()["counted"] is True


async def test_a_streamed_answer_too(file: str) -> None:
    async with asked(ledger=file) as client:
        body = {**QUESTION, "stream": True}
        text = (await client.http.post("/v1/chat/completions", json=body)).text
        id = text.split('"id":"')[1].split('"')[0]
        assert (await client.feedback(id, correct=True)).json()["counted"]


async def test_each_hit_of_the_cache_has_an_id_of_its_own(file: str) -> None:
    for reply in (LOCAL, ESCALATED):
        async with asked(reply, ledger=file) as client:
            ids = [await client.ask() for _ in range(3)]
            assert len(client.pipeline.queries) == 1
            kept = [await client.found(id) for id in ids]
            assert len(set(ids)) == 3
        assert {decided.route for decided in kept} == {reply.decision.route}
    assert kept[0].text == "Grüße!"
    assert kept[1].text is None  # the cache does not keep the local answer that was not given


async def test_an_upstreams_ids_are_not_trusted(file: str) -> None:
    # It gives every answer the same one, and another gateway may have recorded it before.
    async with asked(ESCALATED, ledger=file) as client:
        ids = {await client.ask(seed=i) for i in range(3)}
        assert len(ids) == 3
        assert {(await client.found(id)).id for id in ids} == ids


async def test_those_who_share_a_run_have_ids_of_their_own(file: str) -> None:
    async with asked(ledger=file) as client:
        gate = asyncio.Event()

        async def wait() -> None:
            await gate.wait()

        client.pipeline.before = wait
        tasks = [asyncio.create_task(client.ask()) for _ in range(3)]
        while not client.pipeline.queries:
            await asyncio.sleep(0.001)
        gate.set()
        ids = await asyncio.gather(*tasks)
        assert len({(await client.found(id)).id for id in ids}) == 3


async def test_an_escalated_answer_is_judged_by_a_better_one_only(file: str) -> None:
    async with asked(ESCALATED, ledger=file) as client:
        id = await client.ask()
        refused = await client.feedback(id, correct=True)
        taken = await client.feedback(id, answer="Grüße")
        labels = await client.labels()
    assert refused.status_code == 409
    assert error(refused)["code"] == "not_local"
    assert "'answer'" in error(refused)["message"]
    assert taken.json() == {"object": "feedback", "id": id, "correct": True, "counted": True}
    # The upstream's own label came first; that every escalated answer has one is still known.
    assert [(x.source, x.correct, x.inclusion) for x in labels] == [("user", True, 1.0)]


async def test_without_a_local_answer_there_is_nothing_to_judge(file: str) -> None:
    gated = replace(UNCERTAIN, reason="gated", p_correct=None)
    given_up = replace(TRACE, finish_reason="gated")
    reply = replace(REMOTE, decision=gated, trace=given_up)
    async with asked(reply, ledger=file) as client:
        id = await client.ask()
        responses = [await client.feedback(id, correct=True), await client.feedback(id, answer="B")]
    for response in responses:
        assert response.status_code == 409
        assert error(response)["code"] == "no_local_answer"
        assert "gated" in error(response)["message"]


async def test_a_long_answer_can_not_be_compared(file: str) -> None:
    async with asked(ledger=file) as client:
        long = "It was written long ago. Nobody knows by whom."
        response = await client.feedback(await client.ask(), answer=long)
        assert await client.labels() == []
    assert response.status_code == 400
    assert "'correct'" in error(response)["message"]


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"id": "chatcmpl-none", "correct": True}, 404, "answer_not_found", "X-Request-Id"),
        ({"id": "x"}, 400, "invalid_value", "either 'correct'"),
        ({"id": "x", "correct": True, "answer": "B"}, 400, "invalid_value", "either"),
        ({"correct": True}, 400, "missing_required_parameter", "'id'"),
        ({"id": "x", "correct": "yes"}, 400, "invalid_type", "a boolean"),
        ({"id": "x", "correct": 1}, 400, "invalid_type", "a boolean"),
        ({"id": "", "correct": True}, 400, "string_too_short", "'id'"),
        ({"id": "x", "answer": ""}, 400, "string_too_short", "'answer'"),
        ({"id": "x", "corect": True}, 400, "unknown_parameter", "'correct'"),
        ([], 400, "invalid_type", "object"),
    ],
)
async def test_what_is_wrong_is_said(
    file: str, body: Any, status: int, code: str, words: str
) -> None:
    async with asked(ledger=file) as client:
        response = await client.http.post("/v1/feedback", json=body)
    assert response.status_code == status
    assert error(response)["code"] == code
    assert words in error(response)["message"]


async def test_it_must_be_json(file: str) -> None:
    async with asked(ledger=file) as client:
        response = await client.http.post("/v1/feedback", content="{}")
    assert response.status_code == 415


async def test_off() -> None:
    async with asked(ledger="off") as client:
        response = await client.feedback(await client.ask(), correct=True)
    assert response.status_code == 501
    assert "ROUTER_LEDGER" in error(response)["message"]


async def test_a_broken_ledger_breaks_no_answer(
    file: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with asked(ledger=file, cache_size=0) as client:
        with sqlite3.connect(file) as connection:
            connection.execute("ALTER TABLE decided RENAME TO gone")
        connection.close()
        for _ in range(3):
            id = await client.ask()
            await client.gateway.books.settled()
        response = await client.feedback(id, correct=True)
        assert client.count("router_ledger_errors_total", operation="record") == 3
        assert client.count("router_ledger_errors_total", operation="feedback") == 1
        assert sum("ledger failed" in r.message for r in caplog.records) == 1
        with sqlite3.connect(file) as connection:
            connection.execute("ALTER TABLE gone RENAME TO decided")
        connection.close()
        assert (await client.feedback(await client.ask(), correct=True)).status_code == 200
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert error(response)["code"] == "ledger_failed"


async def test_redis_shares_what_two_gateways_know(redis_server: RedisServer) -> None:
    settings: dict[str, Any] = {"ledger": "redis", "redis_url": redis_server.url}
    async with asked(**settings) as one, asked(**settings) as other:
        id = await one.ask()
        await one.gateway.books.settled()
        assert (await other.feedback(id, correct=True)).json()["counted"]
        assert not (await one.feedback(id, correct=True)).json()["counted"]


async def test_what_is_local_only_does_not_go_to_redis(redis_server: RedisServer) -> None:
    async with asked(ledger="redis", redis_url=redis_server.url) as client:
        id = await client.ask(router={"local_only": True})
        decided = await client.found(id)
        judged = await client.feedback(id, answer="hello")
        assert (await client.feedback(id, correct=True)).json()["counted"]
    assert decided.text is None
    assert judged.status_code == 409
    assert "local_only" in error(judged)["message"]


@pytest.mark.parametrize("how", ["off", "hash", "text"])
async def test_questions_are_kept_as_the_operator_says(file: str, how: str) -> None:
    async with asked(ledger=file, log_prompts=how) as gateway:
        prompts = [(await gateway.found(await gateway.ask(seed=i))).prompt for i in (1, 2)]
    first = prompts[0] or ""
    assert prompts[0] == prompts[1]
    assert (prompts[0] is None) == (how == "off")
    assert ("Say hello" in first) == (how == "text")
    assert how != "hash" or re.fullmatch("[0-9a-f]{16}", first)


async def test_redis_gone_breaks_no_answer(redis_server: RedisServer) -> None:
    async with asked(ledger="redis", redis_url=redis_server.url) as client:
        redis_server.stop()
        id = await client.ask()
        assert (await client.feedback(id, correct=True)).status_code == 503
        assert client.count("router_ledger_errors_total", operation="record") == 1


class Stuck:
    """A ledger that takes its time; nothing else of it is asked for."""

    on_this_machine = True

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.seen: list[Decided] = []

    async def record(self, *decided: Decided) -> None:
        await self.go_on.wait()
        self.seen.extend(decided)

    async def label(self, label: Label) -> bool:
        raise ZeroDivisionError(label.id)


def decided(i: int) -> Decided:
    return Decided(f"id-{i}", 0.0, None, "local", "confident")


async def test_a_slow_ledger_loses_entries_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.books.SETTLE_SECONDS", 0.01)
    ledger, metrics = Stuck(), Metrics()
    books = Books(cast(Ledger, ledger), metrics)
    books.keep(*(decided(i) for i in range(CAPACITY + 5)))
    with pytest.raises(LedgerError, match="behind"):
        await books.settled()
    lost = metrics.registry.get_sample_value(
        "router_ledger_errors_total", {"operation": "overflow"}
    )
    assert lost == 5
    assert "entries are lost" in caplog.text
    ledger.go_on.set()
    monkeypatch.setattr("service.books.SETTLE_SECONDS", 60)
    await books.close()
    assert len(ledger.seen) == CAPACITY


async def test_a_bug_is_logged_and_does_not_stop_the_writer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = Stuck()
    ledger.go_on.set()
    books = Books(cast(Ledger, ledger), Metrics())
    books.keep(decided(1), Label("id-1", True, "user", 0.0))
    await books.settled()
    assert "internal error" in caplog.text
    books.keep(decided(2))
    await books.close()
    assert [one.id for one in ledger.seen] == ["id-1", "id-2"]


async def test_what_waits_is_written_before_the_end(file: str) -> None:
    async with asked(events=REMOTE_STREAM, ledger=file) as client:
        ids = [await client.ask(seed=i) for i in range(5)]
    ledger = await SqliteLedger.open(file)
    assert all([await ledger.find(id) for id in ids])
    await ledger.close()
